"""A dataset's folder: from which place its files come, what is recorded of them, what a human may put there."""

import gzip
import hashlib
import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fdl.core import places
from fdl.core.errors import InputError
from fdl.core.places import File, Place
from fdl.data import download, formats
from fdl.data.sources import SOURCES
from fdl.data.synthetic import write_twin
from tests.data import server
from tests.data.fetching import CONTENT, NEU, OTHER, SHA256, fetch, image, refused, table
from tests.data.server import serve


def ledger(folder=NEU):
    return json.loads((folder / ".hashes.json").read_bytes())["files"]


def test_a_file_is_fetched_once_recorded_and_its_terms_are_shown_and_kept(site, publish):
    lines = fetch()
    assert (NEU / "neu.zip").read_bytes() == CONTENT
    assert not (NEU / ".partial").exists()
    assert ledger() == {"neu.zip": SHA256.removeprefix("sha256:")}
    assert "do not republish the images" in lines[0]
    assert (NEU / "TERMS.txt").read_text() == lines[0] + "\n"
    assert fetch() == [f"neu: 1 file verified in {NEU}"]
    assert len(site.asked) == 1


def test_a_dead_first_place_gives_way_to_the_next(site, publish):
    with serve() as dead:
        pass
    published = (File("neu.zip", len(CONTENT), SHA256),)
    publish(Place("web", dead.address, published), Place("web", f"{site.address}/a", published))
    assert f"neu: {dead.address}: no connection" in fetch()
    assert (NEU / "neu.zip").read_bytes() == CONTENT


def test_a_place_gives_all_its_files_or_none_is_used(site, publish):
    site.files["/b/one.pkl"] = pickle.dumps(1)
    first = Place("web", f"{site.address}/b", (File("one.pkl"), File("two.pkl")))
    publish(first, Place("web", f"{site.address}/a", (File("neu.zip", len(CONTENT), SHA256),)))
    fetch()
    assert sorted(path.name for path in NEU.iterdir()) == [".hashes.json", "TERMS.txt", "neu.zip"]


def test_a_kill_between_two_moves_is_mended(site, publish, monkeypatch):
    one, two = pickle.dumps(1), pickle.dumps(2)
    site.files |= {"/a/one.pkl": one, "/a/two.pkl": two}
    publish(Place("web", f"{site.address}/a", (File("one.pkl"), File("two.pkl"))))

    def killed(source: Path, target: Path) -> None:
        replaced(source, target)
        if target == NEU / "one.pkl":
            raise KeyboardInterrupt

    replaced = os.replace
    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        fetch()
    monkeypatch.setattr(os, "replace", replaced)
    assert not download.is_complete("neu")
    fetch(offline=True)
    assert (NEU / "one.pkl").read_bytes() + (NEU / "two.pkl").read_bytes() == one + two
    assert len(site.asked) == 2


def test_offline_nothing_is_asked_for(site, publish, monkeypatch):
    line = refused(offline=True)
    assert "no network may be used" in line
    assert f"put neu.zip from {site.address}/a into {NEU}" in line
    monkeypatch.setenv("FDL_OFFLINE", "1")
    refused()
    NEU.mkdir(parents=True)
    (NEU / "neu.zip").write_bytes(CONTENT)
    fetch()
    assert not site.asked


def test_a_mirror_comes_first_and_its_failure_is_no_harm(site, publish, monkeypatch):
    monkeypatch.setenv("FDL_MIRROR", f"{site.address}/lab/")
    assert f"neu: {site.address}/lab/ (neu.zip): HTTP 404 Not Found" in fetch()
    assert len(site.asked_for("/a/neu.zip")) == 1
    (NEU / "neu.zip").unlink()
    site.files["/lab/neu/neu.zip"] = CONTENT
    fetch()
    assert len(site.asked_for("/a/neu.zip")) == 1
    monkeypatch.setenv("FDL_MIRROR", "not an address")
    (NEU / "neu.zip").unlink()
    lines = fetch()
    assert "neu: not an address (neu.zip): not an address" in lines
    assert not any("trying again" in line for line in lines)


@pytest.fixture
def kaggle(site, publish, monkeypatch):
    """NEU is on Kaggle only, as a ZIP file that wants the token ann / s3cret."""
    monkeypatch.setitem(places.DOWNLOADS, "kaggle", f"{site.address}/api/{{id}}")
    site.files["/api/ann/neu"] = CONTENT
    site.script["/api/ann/neu"] = [server.for_token("ann", "s3cret")]
    publish(Place("kaggle", "ann/neu", (File("archive.zip"),)))
    return site


def test_without_a_token_one_line_says_what_to_fetch_and_where_to_put_it(kaggle):
    line = refused()
    assert "no token in KAGGLE_API_TOKEN, or as access_token or kaggle.json in" in line
    assert f"put archive.zip from https://www.kaggle.com/datasets/ann/neu into {NEU} and run" in line
    assert not kaggle.asked
    (NEU / "archive.zip").write_bytes(CONTENT)
    fetch()  # and the next run goes on from there
    assert list(ledger()) == ["archive.zip"]


@pytest.mark.parametrize("where", ["environment", "file", "new environment", "new file"])
def test_a_token_is_sent_and_never_said(kaggle, monkeypatch, where, capfd, project):
    if where == "environment":
        monkeypatch.setenv("KAGGLE_USERNAME", "ann")
        monkeypatch.setenv("KAGGLE_KEY", "s3cret")
    elif where == "file":
        (project / "kaggle").mkdir()
        (project / "kaggle/kaggle.json").write_text('{"username": "ann", "key": "s3cret"}')
    elif where == "new environment":
        monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_s3cret")
    else:
        (project / "kaggle").mkdir()
        (project / "kaggle/access_token").write_text("KGAT_s3cret\n")
    if where.startswith("new"):
        kaggle.script["/api/ann/neu"] = [server.for_bearer("KGAT_s3cret")]
    monkeypatch.setenv("FDL_MIRROR", f"{kaggle.address}/lab")  # it is not for the mirror
    said = "\n".join(fetch())
    assert (NEU / "archive.zip").read_bytes() == CONTENT
    assert "s3cret" not in said + "".join(capfd.readouterr())
    assert not any(b"s3cret" in path.read_bytes() for path in NEU.rglob("*") if path.is_file())
    assert [bool(request.headers["Authorization"]) for request in kaggle.asked] == [False, True]


def test_a_wrong_token_is_said_to_be_wrong_but_not_what_it_is(kaggle, monkeypatch):
    monkeypatch.setenv("KAGGLE_USERNAME", "ann")
    monkeypatch.setenv("KAGGLE_KEY", "0ld")
    line = refused()
    assert "kaggle ann/neu: HTTP 401 Unauthorized: the token is wrong" in line
    assert "0ld" not in line


@pytest.mark.parametrize("content", ["{", "[]", '{"username": "ann"}', '"s3cret"'])
def test_a_damaged_token_file_is_named_but_not_quoted(kaggle, project, content):
    (project / "kaggle").mkdir()
    (project / "kaggle/kaggle.json").write_text(content)
    line = refused()
    assert "kaggle.json is not a Kaggle token" in line
    assert "s3cret" not in line


@pytest.fixture
def listing(site, publish, monkeypatch):
    """NEU is on Hugging Face only; the list of its files is the returned, to be changed."""
    monkeypatch.setitem(places.DOWNLOADS, "huggingface", f"{site.address}/{{id}}/resolve/main/{{path}}")
    monkeypatch.setitem(places.LISTINGS, "huggingface", f"{site.address}/api/{{id}}")
    publish(Place("huggingface", "ann/neu"))
    items = []
    for name, content in (("train-0.parquet", table(0, 1)), ("test-0.parquet", table(2))):
        site.files[f"/ann/neu/resolve/main/data/{name}"] = content
        oid = hashlib.sha256(content).hexdigest()
        items.append({"path": f"data/{name}", "size": len(content), "lfs": {"oid": oid}})
    items.append({"path": "README.md", "size": 3})
    site.files["/api/ann/neu"] = json.dumps(items).encode()
    return items


def test_hugging_face_lists_its_files_with_their_hashes(site, listing):
    fetch()
    assert sorted(ledger()) == ["test-0.parquet", "train-0.parquet"]
    assert [path.read_bytes() for path in sorted(NEU.glob("*.parquet"))] == [table(2), table(0, 1)]
    (NEU / "test-0.parquet").unlink()
    fetch()  # the set is known to be incomplete
    assert (NEU / "test-0.parquet").exists()
    assert len(site.asked_for("/ann/neu/resolve/main/data/train-0.parquet")) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[]", "it lists no single set of parquet files"),
        (b"<html>", "its list of files cannot be read"),
        (b'[{"path": "a.parquet", "size": 3}]', "its list of files cannot be read"),
        (
            b'[{"path": "a.parquet", "size": -5, "lfs": {"oid": "%s"}}]' % (b"0" * 64),
            "its list of files cannot be read",
        ),
        (b'[{"path": "a.parquet", "size": 5, "lfs": {"oid": null}}]', "its list of files cannot be read"),
        (b'{"error": "gated"}', "its list of files cannot be read"),
    ],
)
def test_a_useless_list_of_files(site, listing, content, said):
    site.files["/api/ann/neu"] = content
    assert said in refused()


def test_two_listed_files_of_one_name(site, listing):
    site.files["/api/ann/neu"] = json.dumps([listing[0], listing[0] | {"path": "more/train-0.parquet"}]).encode()
    assert "it lists no single set of parquet files" in refused()


def test_what_a_human_put_there_is_taken_recorded_and_enforced(site, publish):
    publish(Place("page", "https://neu.example/list", by_hand="NEU-CLS"))
    assert refused().endswith(f"; put NEU-CLS from https://neu.example/list into {NEU} and run the same command again")
    (NEU / "NEU-CLS").mkdir()
    for number in (1, 2):
        (NEU / f"NEU-CLS/Cr_{number}.bmp").write_bytes(image(number))
    assert fetch() == [f"neu: 2 files verified in {NEU}"]
    assert list(ledger()) == ["NEU-CLS/Cr_1.bmp", "NEU-CLS/Cr_2.bmp"]
    (NEU / "NEU-CLS/Cr_2.bmp").write_bytes(b"changed")
    assert f"{NEU}/NEU-CLS/Cr_2.bmp: differs from the file first seen" in refused()


def test_a_human_put_only_some_of_the_files_there(site, publish):
    publish(Place("web", f"{site.address}/a", (File("neu.zip", None, SHA256), File("more.zip"))))
    site.files["/a/more.zip"] = OTHER
    NEU.mkdir(parents=True)
    (NEU / "neu.zip").write_bytes(CONTENT)
    fetch()
    assert [request.path for request in site.asked] == ["/a/more.zip"]


def test_a_file_under_a_published_name_must_be_the_published_one(site, publish):
    NEU.mkdir(parents=True)
    (NEU / "neu.zip").write_bytes(OTHER)
    with pytest.raises(InputError, match=r"neu.zip: is not the published file \(sha256:.* give it another name"):
        fetch()
    assert not (NEU / ".hashes.json").exists()
    (NEU / "neu.zip").rename(NEU / "own.zip")
    fetch()
    assert list(ledger()) == ["own.zip"]


def test_the_hash_of_the_first_download_is_enforced_on_the_second(site, publish):
    publish(Place("web", f"{site.address}/a", (File("neu.zip"),)))
    fetch()
    (NEU / "neu.zip").unlink()
    site.files["/a/neu.zip"] = OTHER
    line = refused()
    assert f"gives another file than the one with {SHA256}, of the file first seen" in line
    assert f"if the new one is meant, delete the line 'neu.zip' in {NEU}/.hashes.json" in line
    content = json.loads((NEU / ".hashes.json").read_bytes())
    del content["files"]["neu.zip"]
    (NEU / ".hashes.json").write_text(json.dumps(content))
    fetch()
    assert (NEU / "neu.zip").read_bytes() == OTHER


PAGE = b"<!DOCTYPE html><title>Log in</title>"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (server.typed("Text/HTML", PAGE), "gives a web page, not the file"),
        (server.typed("application/octet-stream", PAGE), "it is a web page, perhaps one that asks to log in"),
        (server.typed("application/zip", b"\n\n  <html>"), "it is a web page"),
        (server.typed("application/zip", CONTENT[:-500]), "it is not a ZIP file that can be read to its end"),
        (server.typed("application/zip", CONTENT[:5000] + b"x" + CONTENT[5001:]), "it is not a ZIP file that can be"),
        (server.typed("application/zip", gzip.compress(CONTENT)), "it does not begin as a ZIP file does"),
        (server.typed("application/zip", b""), "it is empty"),
    ],
)
def test_what_is_not_the_file_is_never_recorded_and_does_not_block_it(site, publish, answer, said):
    publish(Place("web", f"{site.address}/a", (File("neu.zip"),)))
    site.script["/a/neu.zip"] = [answer]
    assert said in refused()
    assert not (NEU / "neu.zip").exists()
    assert not (NEU / ".hashes.json").exists()
    fetch()
    assert ledger() == {"neu.zip": SHA256.removeprefix("sha256:")}


def test_a_page_that_a_human_saved_under_the_files_name_is_not_recorded(site, publish):
    publish(Place("page", "https://neu.example/list", by_hand="NEU-CLS"))
    NEU.mkdir(parents=True)
    (NEU / "NEU-CLS.rar").write_bytes(PAGE)
    assert "NEU-CLS.rar: it is a web page, perhaps one that asks to log in; delete it, or put" in refused()
    assert not (NEU / ".hashes.json").exists()


def test_a_file_that_was_deleted_by_hand_is_fetched_again(site, publish):
    publish(Place("web", f"{site.address}/a", (File("neu.zip"),)))
    fetch()
    (NEU / "neu.zip").unlink()
    fetch()
    assert (NEU / "neu.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("value", ["0", "false", "No", "off", ""])
def test_offline_can_be_denied(site, publish, monkeypatch, value):
    monkeypatch.setenv("FDL_OFFLINE", value)
    fetch()


@pytest.mark.parametrize("dataset", SOURCES)
def test_a_mirror_alone_is_enough(site, monkeypatch, dataset):
    """No other host is asked, not even for a list of files."""
    contents = {"zip": CONTENT, "pkl": pickle.dumps(1), "parquet": table(0), "gz": gzip.compress(b"1")}
    place = SOURCES[dataset].places[0]
    if dataset == "cifar10":
        place = next(place for place in SOURCES[dataset].places if not place.files)
    items = []
    for file in place.files or (File("train-0.parquet", path="data/train-0.parquet"),):
        content = contents.get(file.name.rpartition(".")[2], b"Rar!\x1a\x07")
        site.files[f"/lab/{dataset}/{file.name}"] = content
        items.append({"path": file.path, "size": len(content), "lfs": {"oid": hashlib.sha256(content).hexdigest()}})
    if not place.files:
        site.files[f"/lab/{dataset}/files.json"] = json.dumps(items).encode()
    unhashed = replace(place, files=tuple(replace(file, size=None, hash=None) for file in place.files))
    elsewhere = Place("kaggle", "ann/nowhere", (File("nowhere.zip"),))
    monkeypatch.setitem(SOURCES, dataset, replace(SOURCES[dataset], places=(elsewhere, unhashed)))
    monkeypatch.setenv("FDL_MIRROR", f"{site.address}/lab")
    download.fetch(dataset, say=lambda _: None)
    assert all(request.path.startswith("/lab/") for request in site.asked)
    assert download.is_complete(dataset)


def test_the_last_line_has_the_reason_of_every_place(site, publish, monkeypatch):
    monkeypatch.setenv("FDL_MIRROR", f"{site.address}/lab")
    publish(
        Place("web", f"{site.address}/nowhere", (File("neu.zip"),)),
        Place("page", "https://neu.example/list"),
        Place("kaggle", "ann/neu", (File("archive.zip"),)),
    )
    line = refused()
    assert f"{site.address}/lab (neu.zip): HTTP 404" in line
    assert f"{site.address}/lab (archive.zip): HTTP 404" in line
    assert f"{site.address}/nowhere: HTTP 404" in line
    assert "https://neu.example/list: only a human can fetch there" in line
    assert "kaggle ann/neu: no token in KAGGLE_API_TOKEN, or as access_token or kaggle.json in" in line


def test_a_mirrors_password_is_never_said(site, publish, monkeypatch):
    host = site.address.removeprefix("http://")
    monkeypatch.setenv("FDL_MIRROR", f"http://ann:s3cr/et@{host}/lab")
    lines = fetch()
    monkeypatch.setenv("FDL_MIRROR", f"http://ann:s3cret@{host}/lab?token=s3cret")
    (NEU / "neu.zip").unlink()
    said = "\n".join([*lines, *fetch()])
    assert "s3cr" not in said
    assert "***" in said


def test_a_changed_file_is_found_by_verify(site, publish):
    with pytest.raises(InputError, match=r"not all files are there; run `python -m fdl data download neu`"):
        download.verify("neu")
    publish(Place("web", f"{site.address}/a", (File("neu.zip"),)))
    fetch()
    assert download.verify("neu", say=lambda _: None) == 1
    with (NEU / "neu.zip").open("r+b") as file:
        file.write(b"\x01")
    with pytest.raises(InputError, match=r"neu\.zip: differs from the file first seen \(SHA-256 \w{64} in .*put that"):
        download.verify("neu")


def test_a_damaged_ledger_is_one_line(site, publish):
    fetch()
    for content in ("{", "[1]", '{"hashes": {}}'):
        (NEU / ".hashes.json").write_text(content)
        assert ".hashes.json: damaged (" in refused()


@pytest.mark.parametrize("dataset", SOURCES)
def test_every_published_format_arrives_as_it_was_written(site, monkeypatch, dataset):
    """Files as they are published; folders of images as a ZIP file of them. Every transfer breaks off once."""
    original, packed = Path("twin"), Path("packed")
    write_twin(dataset, original)
    entries = list(original.iterdir())
    if any(entry.is_dir() for entry in entries) or len(entries) > 4:
        packed.mkdir()
        shutil.make_archive(str(packed / "archive"), "zip", original)
        entries = list(packed.iterdir())
    for entry in entries:
        site.files[f"/{entry.name}"] = entry.read_bytes()
        site.script[f"/{entry.name}"] = [server.truncated]
    place = Place("web", site.address, tuple(File(entry.name) for entry in entries))
    monkeypatch.setitem(SOURCES, dataset, replace(SOURCES[dataset], places=(place,)))
    fetched = formats.open_images(download.fetch(dataset, say=lambda _: None))
    written = formats.open_images(original)
    assert [(record.label, record.identity) for record in fetched.records] == [
        (record.label, record.identity) for record in written.records
    ]
    for got, expected in zip(fetched.contents(), written.contents(), strict=True):
        np.testing.assert_array_equal(got, expected)

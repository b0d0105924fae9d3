"""The verbs of the images as a user types them."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fdl.cli import main
from fdl.core.places import File, Place
from fdl.data import http
from fdl.data.sources import SOURCES
from fdl.data.synthetic import write_twin
from tests.data.fetching import CONTENT
from tests.data.server import serve
from tests.projects import ROOT, write_images, write_params, write_photographs

RAW = Path("data/raw/official/bsd")


@pytest.fixture
def fdl(project, monkeypatch, capsys):
    """Call a verb of `data` in this process: exit code, lines that it printed, its errors. Nothing is published."""
    for name in ("FDL_MIRROR", "FDL_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(http, "WAITS", ())
    for dataset, entry in SOURCES.items():
        # The twins stand for the official files here; how many images those hold is another test's.
        page = (Place("page", "https://data.example"),)
        monkeypatch.setitem(SOURCES, dataset, replace(entry, places=page, counted=False))
    write_params(project / "params.yaml", source="official", data_dir=None)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["fdl", "data", *arguments])
        with pytest.raises(SystemExit) as end:
            main.main()
        captured = capsys.readouterr()
        return end.value.code or 0, captured.out.splitlines(), captured.err

    return call


def states(fdl, *arguments):
    """Of every dataset and source, its state, size and terms: the columns after the number of images."""
    code, lines, _ = fdl("list", *arguments)
    assert code == 0
    assert lines[0].split() == ["dataset", "source", "images", "state", "size", "terms"]
    columns = [lines[0].index(name) for name in ("dataset", "source", "images", "state", "size", "terms")]
    cells = [[line[a:b].strip() for a, b in zip(columns, [*columns[1:], None], strict=True)] for line in lines[1:]]
    return {(row[0], row[1]): row[2:] for row in cells}


def test_list_follows_a_dataset_from_missing_to_prepared(fdl):
    about = states(fdl)
    assert list(about) == [(dataset, "official") for dataset in SOURCES]
    assert about["tex", "official"] == ["108,000", "missing", "about 4 GB", "CC BY-NC-SA 4.0"]
    write_twin("bsd", RAW)
    assert states(fdl)["bsd", "official"][1] == "downloaded"
    assert fdl("prepare")[0] == 0
    images, state, size, _ = states(fdl)["bsd", "official"]
    assert state == "prepared"
    assert 0 < int(images) < 21_835
    assert size.endswith(("kB", "MB"))


def test_list_says_that_a_set_is_not_complete(fdl, monkeypatch):
    files = (File("one.pkl"), File("two.pkl"))
    monkeypatch.setitem(SOURCES, "bsd", replace(SOURCES["bsd"], places=(Place("web", "https://x.example", files),)))
    RAW.mkdir(parents=True)
    (RAW / "one.pkl").write_bytes(b"1")
    assert states(fdl)["bsd", "official"][1] == "incomplete"


def test_list_shows_the_settings_source_beside_the_official_one(fdl, project):
    own = {"name": "bolts", "folder": "bolts", "image_size": 32, "like": "neu"}
    write_params(project / "params.yaml", datasets=["bsd", own])
    about = states(fdl)
    assert (about["bsd", "local"][1], about["bolts", "own"][1]) == ("missing", "missing")
    write_images()
    (project / "bolts").mkdir()
    about = states(fdl)
    assert (about["bsd", "local"][1], about["bolts", "own"][1]) == ("there", "there")
    assert about["bsd", "official"][1] == "missing"
    assert states(fdl, "--set", "source=synthetic")["bsd", "synthetic"][1] == "written when used"


def test_download_fetches_what_settings_of_source_official_use(fdl, monkeypatch):
    with serve({"/lab/bsd/bsd.zip": CONTENT}) as site:
        monkeypatch.setenv("FDL_MIRROR", f"{site.address}/lab")
        place = Place("web", f"{site.address}/gone", (File("bsd.zip"),))
        monkeypatch.setitem(SOURCES, "bsd", replace(SOURCES["bsd"], places=(place,)))
        code, lines, _ = fdl("download")
    assert code == 0
    assert "Terms: Its copies disagree" in lines[1]
    assert lines[-1] == f"bsd: 1 file verified in {RAW}"
    assert (RAW / "bsd.zip").read_bytes() == CONTENT
    assert fdl("download", "--offline")[0] == 0


WRONG = {
    "nothing can be fetched": (
        ["download", "neu"],
        "neu: cannot be downloaded (https://data.example: only a human can",
    ),
    "not there and offline": (
        ["download", "neu", "--offline"],
        "no network may be used; put the images from https://data.example into",
    ),
    "an unknown dataset": (["download", "cifar11"], "unknown dataset 'cifar11'; did you mean 'cifar10'?"),
    "a stranger": (["verify", "imagenette"], "unknown dataset 'imagenette'; "),
    "another source": (["download", "--set", "source=synthetic"], "preset 'demo' reads synthetic images; name the"),
    "nothing to verify": (["verify", "tex"], "tex: not all files are there; run `python -m fdl data download tex`"),
    "nothing to show": (["show", "bsd"], "no such file; run `python -m fdl data prepare`"),
    "not of the settings": (["show", "tex"], "dataset 'tex' is not in the settings; they use bsd"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line_and_exit_code_2(fdl, case):
    arguments, message = WRONG[case]
    code, _, err = fdl(*arguments)
    assert code == 2
    assert message in err
    assert err.startswith("fdl: ")
    assert len(err.splitlines()) == 1


def test_verify_hashes_files_and_prepared_images(fdl):
    assert fdl("verify") == (0, ["nothing is downloaded or prepared"], "")
    write_twin("bsd", RAW)
    fdl("prepare")
    code, lines, _ = fdl("verify")
    assert code == 0
    assert lines[0].endswith(f"files verified in {RAW}")
    assert lines[1].endswith("prepared images verified in data/prepared/official/bsd-32")

    images = np.load("data/prepared/official/bsd-32/images.npy", mmap_mode="r+")
    images[-1] ^= 1
    images.flush()
    code, _, err = fdl("verify", "bsd")
    assert code == 2
    assert f"image {len(images) - 1} (" in err

    changed = next(RAW.glob("*.png"))
    changed.write_bytes(changed.read_bytes() + b"\0")
    code, _, err = fdl("verify")
    assert code == 2
    assert f"{changed}: differs from the file first seen" in err


def test_verify_and_show_say_that_photographs_were_changed(fdl, project):
    own = {"name": "bolts", "folder": "photos/bolts", "image_size": 32, "like": "neu"}
    write_params(project / "params.yaml", datasets=[own])
    write_photographs("photos/bolts", dict.fromkeys("ab", 10))
    assert fdl("prepare")[0] == 0
    assert fdl("verify", "bolts")[0] == 0
    assert fdl("show", "bolts")[2] == ""
    Path("photos/bolts/a/Foto 1.png").rename("photos/bolts/b/moved.png")
    line = "fdl: photos/bolts: the photographs there are not those that were prepared (other names, sizes or times)"
    code, _, err = fdl("verify", "bolts")
    assert code == 2
    assert err.startswith(line)
    code, lines, err = fdl("show", "bolts")
    assert code == 0
    assert err.startswith(line)
    assert lines
    assert fdl("prepare")[0] == 0
    assert fdl("verify", "bolts")[0] == 0


def test_show_writes_sheets_and_prints_their_names(fdl):
    write_twin("bsd", RAW)
    fdl("prepare")
    code, lines, _ = fdl("show", "bsd", "--shots", "3", "--draw", "1")
    assert code == 0
    for line in lines:
        Image.open(line).load()
    assert "3shot-draw1" in lines[0]


def test_slow_libraries_wait_until_they_are_needed(project):
    code = (
        "import sys; import fdl.cli.main, fdl.data.download, fdl.data.formats, fdl.data.prepare; "
        "slow = ('torch', 'pandas', 'pyarrow', 'h5py', 'requests'); "
        "print([name for name in slow if name in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == "[]\n"

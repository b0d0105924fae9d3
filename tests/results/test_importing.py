"""Records trained elsewhere come in only if they are what would be trained here, and are not trained again."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from functools import partial
from pathlib import Path

import pytest

from fdl.core import files, layout
from fdl.core.errors import InputError
from fdl.core.settings import Cell
from fdl.results.locks import bundle_lock
from fdl.results.transfer import import_records
from tests.projects import ROOT, tiny

FDL = Cell("bsd", "alexnet", 3, "fdl", 0)
RECEIPT = Path("results/demo/bsd/alexnet/3shot/bundle.json")


@pytest.fixture
def away(trained, tmp_path_factory):
    """The records in a folder outside of the project, which has none; the settings."""
    elsewhere = tmp_path_factory.mktemp("gpu") / "demo"
    shutil.move("results/demo", elsewhere)
    Path("results").rmdir()
    return elsewhere


def bring(params, source, **options):
    """Import; the counts that are not 0, and what was said."""
    said = []
    counts = vars(import_records(params, source, say=said.append, **options))
    return {name: count for name, count in counts.items() if count}, said


def contents(folder=Path("results/demo")):
    """Bytes of every file of the records."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("seed*/*") if path.is_file()
    }


def test_all_records_come_in_and_a_second_time_none(away):
    complete = ["bsd/alexnet/3shot"]
    assert bring(tiny(), away) == ({"new": 4, "receipts": complete}, [])
    assert contents() == contents(away)
    receipt = json.loads(RECEIPT.read_bytes())
    assert receipt == json.loads((away / "bsd/alexnet/3shot/bundle.json").read_bytes())
    before = {path: path.stat().st_mtime_ns for path in Path("results").rglob("run.json")}
    assert bring(tiny(), away) == ({"same": 4, "receipts": complete}, [])
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize("part", [".", "demo", "demo/bsd/alexnet/3shot/fdl/seed0"])
def test_any_part_of_the_tree_may_be_named(away, part):
    counts, _ = bring(tiny(), away.parent / part)
    assert counts["new"] == (1 if "seed" in part else 4)


def test_an_archive_is_as_good_as_a_folder(away):
    with tarfile.open("records.tar.gz", "w:gz") as archive:
        archive.add(away, "results/demo")
    assert bring(tiny(), Path("records.tar.gz"))[0]["new"] == 4
    assert contents() == contents(away)
    assert [path.name for path in layout.SCRATCH.iterdir()] == ["locks"]


def test_an_archive_that_writes_outside_is_refused(away):
    with tarfile.open("records.tar", "w") as archive:
        archive.add(away, "../results/demo")
    with pytest.raises(InputError, match=r"records\.tar: holds the unsafe file name"):
        bring(tiny(), Path("records.tar"))
    assert not Path("results").exists()


def test_a_dry_run_only_counts(away):
    assert bring(tiny(), away, dry_run=True) == ({"new": 4}, [])
    assert not Path("results").exists()


def test_without_the_images_it_is_said_that_they_were_not_checked(away):
    shutil.rmtree("data")
    assert bring(tiny(), away)[0] == {"new": 4, "unchecked": 4, "receipts": ["bsd/alexnet/3shot"]}


def test_other_settings_images_and_cells_are_left_out_with_their_reason(away):
    counts, said = bring(tiny(gaussian_weight=2.0, seeds=[0]), away)
    assert counts == {"new": 1, "stale": 1, "elsewhere": 2}
    assert said == [f"left out: {away}/bsd/alexnet/3shot/fdl/seed0: method_params.gaussian_weight: 0.05 → 2.0"]
    assert not RECEIPT.exists(), "a bundle without all of its cells is not finished"
    shutil.rmtree("results")
    path = away / "bsd/alexnet/3shot/fdl/seed0/run.json"
    run = json.loads(path.read_bytes())
    path.write_bytes(files.to_json(run | {"data": run["data"] | {"hash": "of other images"}}))
    counts, said = bring(tiny(), away)
    assert counts == {"new": 3, "stale": 1}
    assert said[0].endswith("images: trained on others than those prepared here")


def replace(path, old, new):
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))


DAMAGE = {
    "a changed file": (lambda record: (record / "metrics.json").write_bytes(b"[]"), "differs from its hash"),
    "a missing file": (lambda record: (record / "predictions.npz").unlink(), "missing from the record"),
    "half a run.json": (lambda record: (record / "run.json").write_bytes(b"{"), "damaged"),
    "no digests": (
        lambda record: replace(record / "run.json", b'"digests"', b'"digest"'),
        "not the run.json of a record",
    ),
    "another cell's": (lambda record: replace(record / "run.json", b'"key": "bsd', b'"key": "neu'), "of the cell"),
    "a file outside": (lambda record: replace(record / "run.json", b'"cam.npz":', b'"../cam.npz":'), "outside"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_record_is_left_out_by_name_and_the_others_come_in(away, damage):
    spoil, message = DAMAGE[damage]
    record = away / "bsd/alexnet/3shot/fdl/seed0"
    spoil(record)
    counts, (said,) = bring(tiny(), away)
    assert counts == {"new": 3, "damaged": 1}
    assert str(record) in said or "run.json: not the run.json of a record" in said
    assert message in said
    assert not layout.record_folder(tiny(), FDL).exists()


def vouched(record, name, content):
    """Replace a file of a record by a forger, who has its `run.json` vouch for it."""
    (record / name).write_bytes(content)
    run = json.loads((record / "run.json").read_bytes())
    run["files"][name] = files.file_hash(record / name)
    (record / "run.json").write_bytes(files.to_json(run))


def row(record, **changes):
    """Change the first row of a record's metrics."""
    first, *others = json.loads((record / "metrics.json").read_bytes())
    changed = {name: value for name, value in (first | changes).items() if value is not ...}
    vouched(record, "metrics.json", json.dumps([changed, *others]).encode())


def edited(record, change):
    """Change what a record's `run.json` says."""
    run = json.loads((record / "run.json").read_bytes())
    change(run)
    (record / "run.json").write_text(json.dumps(run))


VALUES: tuple[object, ...] = (float("nan"), float("inf"), -5, 100, True, "0.5", None, [0.5], {})
NAMES = ("=cmd()", "no such", "", None, 7, ["soft"])
FORGED = {
    **{f"value {value}": partial(row, value=value) for value in VALUES},
    **{
        f"{key} {name}": partial(row, **{key: name})
        for key in ("combiner", "metric", "split", "selection")
        for name in NAMES
    },
    "a row without its value": lambda record: row(record, value=...),
    "a row with more": lambda record: row(record, more=1),
    "a row twice": lambda record: vouched(
        record, "metrics.json", json.dumps(2 * json.loads((record / "metrics.json").read_bytes())).encode()
    ),
    **{
        f"metrics {content[:12]!r}": partial(vouched, name="metrics.json", content=content)
        for content in (b"", b"{}", b"[1]", b"[" * 100_000, b"\xff")
    },
    **{
        f"{name} {content[:4]!r}": partial(vouched, name=name, content=content)
        for name in ("cam.npz", "correct.npz", "history.parquet")
        for content in (b"", b"PK\x03\x04 half", b"PAR1garbagePAR1", b"\x80\x04N.")
    },
    "nested run.json": lambda record: (record / "run.json").write_bytes(b"[" * 100_000),
    "a link": lambda record: ((record / "cam.npz").unlink(), (record / "cam.npz").symlink_to("/etc/passwd")),
    "a linked run.json": lambda record: (
        (record / "run.json").rename(record / "other.json"),
        (record / "run.json").symlink_to("other.json"),
    ),
    "a folder": lambda record: ((record / "cam.npz").unlink(), (record / "cam.npz").mkdir()),
    "no maps": lambda record: edited(record, lambda run: run["files"].pop("cam.npz")),
    "no status": lambda record: edited(record, lambda run: run.update(status="fine")),
    "no device": lambda record: edited(record, lambda run: run.update(provenance=[])),
    "no timings": lambda record: edited(record, lambda run: run["timings"].update(seconds="1")),
    "no failure": lambda record: edited(record, lambda run: run.update(status="failed")),
    "no classes": lambda record: edited(record, lambda run: run["data"].update(classes="ab")),
}


@pytest.mark.parametrize("forged", FORGED)
def test_a_crafted_record_is_left_out_with_the_reason_and_the_others_come_in(away, forged):
    FORGED[forged](away / "bsd/alexnet/3shot/fdl/seed0")
    counts, (said,) = bring(tiny(), away)
    assert counts == {"new": 3, "damaged": 1}
    assert "\n" not in said
    assert not list(Path("results").rglob(".seed*")), "nothing half-written stays behind"


def test_the_first_records_that_are_left_out_are_named_and_the_others_counted(trained, monkeypatch):
    monkeypatch.setattr("fdl.results.transfer._LINES", 1)
    for record in Path("results").rglob("metrics.json"):
        record.write_bytes(b"")
    shutil.move("results/demo", "elsewhere")
    counts, said = bring(tiny(), Path("elsewhere"))
    assert counts == {"damaged": 4}
    assert len(said) == 2
    assert said[1] == "left out: 3 more"


def test_a_current_record_here_is_kept_and_a_stale_or_damaged_one_replaced(away):
    bring(tiny(), away)
    kept = layout.record_folder(tiny(), FDL) / "run.json"
    replace(kept, b'"device": "cpu"', b'"device": "mine"')
    damaged = layout.record_folder(tiny(), Cell("bsd", "alexnet", 3, "fdl", 1)) / "metrics.json"
    damaged.write_bytes(b"")
    stale = layout.record_folder(tiny(), Cell("bsd", "alexnet", 3, "classical", 0)) / "run.json"
    replace(stale, b'"settings": "', b'"settings": "0')
    assert bring(tiny(), away)[0] == {"same": 2, "replaced": 2, "receipts": ["bsd/alexnet/3shot"]}
    assert b'"device": "mine"' in kept.read_bytes()
    assert damaged.stat().st_size > 0


def test_nothing_comes_in_while_the_bundle_is_trained(away):
    with bundle_lock("demo", "bsd/alexnet/3shot"), pytest.raises(InputError, match="is at work on its records"):
        bring(tiny(), away)
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [("nowhere", "no such folder or archive"), ("images", "holds no records"), ("params.yaml", "neither a folder nor")],
)
def test_a_source_without_records_is_one_line(away, source, message):
    with pytest.raises(InputError, match=f"^{source}: {message}"):
        bring(tiny(), Path(source))


def snakemake(*arguments):
    """Run the workflow in the working directory; what it printed."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "workflow/Snakefile"), "--cores", "1"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_snakemake_trains_nothing_that_was_imported_and_everything_that_changes_later(away):
    """It knows nothing of imported receipts: what they were asked for stands in them."""
    bring(tiny(), away)
    assert "Nothing to be done" in snakemake("--dry-run", "runs")
    assert "rule run:" in snakemake("--dry-run", "runs", "--config", "epochs=3")
    assert RECEIPT.exists(), "a look changes nothing"
    # The import after Snakemake's own work, of which it remembers other settings.
    snakemake("runs", "--config", "epochs=1")
    assert bring(tiny(), away)[0]["replaced"] == 4
    trained_there = contents()
    assert trained_there == contents(away)
    snakemake("runs")
    assert contents() == trained_there, "Snakemake looks at the bundle again, and finds every record current"

"""Whatever changes: every part of the project judges the same records to be current, and no others."""

import json
import shutil
from pathlib import Path

import pytest

from fdl.core import files, layout, method_digest, provenance
from fdl.core.errors import InputError
from fdl.core.settings import Cell
from fdl.data.prepare import prepare
from fdl.data.splits import write_split
from fdl.results import clean, records
from fdl.results.collect import collect, read_collected
from fdl.results.receipts import due_file, write_receipt
from fdl.results.state import Judge
from fdl.results.status import status
from fdl.results.transfer import export_records, import_records
from fdl.tracking.mirror import mirrored
from fdl.training.plan import plan
from tests.projects import tiny

CLASSICAL, FDL = (Cell("bsd", "alexnet", 3, method, 0) for method in ("classical", "fdl"))


def rewrite(cell, **changes):
    """Put other values into the `run.json` of a cell."""
    path = layout.record_folder(tiny(), cell) / "run.json"
    path.write_bytes(files.to_json(json.loads(path.read_bytes()) | changes))


def other_settings(monkeypatch):
    return tiny(gaussian_weight=2.0)


def other_images(monkeypatch):
    next(Path("images/bsd/train/pitting").iterdir()).unlink()
    prepare(tiny(), "bsd", say=lambda line: None)
    for draw in (0, 1):
        write_split(tiny(), "bsd", 3, draw)
    return tiny()


def another_draw(monkeypatch):
    run = records.read_run(layout.record_folder(tiny(), FDL))
    rewrite(FDL, split=run["split"] | {"hash": "of another draw"})
    return tiny()


def another_loss(monkeypatch):
    monkeypatch.setattr(method_digest, "_AS_RECORDED", {})
    monkeypatch.setattr(method_digest, "_DIGESTS", {})
    return tiny()


def changed_bytes(monkeypatch):
    path = layout.record_folder(tiny(), FDL) / "correct.npz"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return tiny()


def a_missing_file(monkeypatch):
    (layout.record_folder(tiny(), FDL) / "cam.npz").unlink()
    return tiny()


def impossible_values(monkeypatch):
    folder = layout.record_folder(tiny(), FDL)
    rows = json.loads((folder / "metrics.json").read_bytes())
    rows[0]["value"] = True
    (folder / "metrics.json").write_bytes(files.to_json(rows))
    run = records.read_run(folder)
    rewrite(FDL, files=run["files"] | {"metrics.json": files.file_hash(folder / "metrics.json")})
    return tiny()


def newer_scores(monkeypatch):
    for module in ("fdl.results.state", "fdl.results.scoring"):
        monkeypatch.setattr(f"{module}.SCORES_VERSION", provenance.SCORES_VERSION + 1)
    return tiny()


# How each changes a project of four records, and what becomes of which of them.
ALL, METHOD, ONE = (2, 2), (0, 2), (0, 1)
CHANGES = {
    other_settings: ("stale", METHOD),
    other_images: ("stale", ALL),
    another_draw: ("stale", ONE),
    another_loss: ("stale", METHOD),
    changed_bytes: ("damaged", ONE),
    a_missing_file: ("damaged", ONE),
    impossible_values: ("damaged", ONE),
    newer_scores: ("stale", ALL),
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_all_judge_alike(trained, monkeypatch, change):
    bundle = FDL.bundle
    write_receipt(trained, bundle, Judge(trained).states())
    collect(trained)
    assert "nothing" in due_file(trained, trained.cells(), Judge(trained, contents=False)).read_text()
    shutil.copytree("results/demo", "elsewhere/demo")

    params = change(monkeypatch)
    expected, (classical, fdl) = CHANGES[change]
    states = {state.cell: state for state in status(params)}
    not_current = {cell for cell, state in states.items() if not state.finished}
    assert {states[cell].status for cell in not_current} == {expected}
    assert [sum(cell.method == method for cell in not_current) for method in ("classical", "fdl")] == [classical, fdl]

    with pytest.raises(InputError, match=f"{len(not_current)} {expected}"):
        collect(params)
    if change is not impossible_values and params == trained:  # other settings are refused before the records are
        with pytest.raises(InputError, match="collect"):
            read_collected(params)
    left = {state.cell for state in collect(params, partial=True).left_out} if len(not_current) < 4 else not_current
    assert left == not_current
    assert mirrored(params).keys() == {cell.key for cell in states if cell not in not_current} or expected == "damaged"
    if expected == "damaged":
        with pytest.raises(InputError):
            export_records(params, Path("a.tar.gz"))
    elif len(not_current) < 4:
        assert export_records(params, Path("a.tar.gz")).missing == len(not_current)
    trains = set() if change is newer_scores else not_current
    finished = {line.bundle: line.finished for line in plan(params, seconds=0).lines}
    assert finished[bundle.key] == 4 - len(trains)
    stale = {one.path for one in clean.find(params, stale=True) if "stale" in one.why}
    assert stale == ({layout.record_folder(params, cell) for cell in trains} if expected == "stale" else set())
    if change is not impossible_values:  # seen when its content is read
        assert "nothing" not in due_file(params, params.cells(), Judge(params, contents=False)).read_text()

    there = import_records(params, Path("results/demo"), dry_run=True, say=lambda line: None)
    assert there.stale + there.damaged + there.replaced == (len(trains) if change is not newer_scores else 4)


def test_a_record_of_a_newer_or_broken_kind_is_damaged_not_a_traceback(trained):
    folder = layout.record_folder(trained, FDL)
    whole = json.loads((folder / "run.json").read_bytes())
    broken = [
        {name: value for name, value in whole.items() if name != key} for key in whole if key not in ("sizes", "heads")
    ]
    broken += [whole | {key: [[[]]]} for key in ("digests", "settings", "files", "data", "timings", "status")]
    needed = {"parameters", "selected", "cell"}  # shown, but no number depends on them
    for run in broken:
        (folder / "run.json").write_bytes(files.to_json(run))
        state = Judge(trained).state(FDL)
        assert state.status == "damaged" or needed & (whole.keys() - run.keys()), whole.keys() - run.keys()
    (folder / "run.json").write_text("[" * 100_000)
    assert Judge(trained).state(FDL).status == "damaged"

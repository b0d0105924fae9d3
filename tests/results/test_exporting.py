"""An archive without predictions, weights and images is enough for the whole report, and nothing is trained again."""

import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest

from fdl.core import layout, provenance
from fdl.core.errors import InputError
from fdl.core.settings import Cell
from fdl.reporting.report import write_report
from fdl.results import records
from fdl.results.collect import collect
from fdl.results.scoring import rescore
from fdl.results.state import Judge
from fdl.results.transfer import export_records, import_records
from fdl.tracking import record_view
from fdl.tracking.artifacts import write_files
from fdl.training.bundle import run_bundle
from tests.projects import tiny

ARCHIVE = Path("records.tar.gz")
FDL = Cell("bsd", "alexnet", 3, "fdl", 0)


@pytest.fixture
def exported(trained):
    """The records are only in the archive; the settings."""
    export_records(trained, ARCHIVE)
    shutil.rmtree("results")
    return trained


def said_nothing(line):
    raise AssertionError(line)


def bring(params):
    return import_records(params, ARCHIVE, say=said_nothing)


def report(params):
    """Bytes of all that the report is, but for the images."""
    collect(params)
    folder = layout.report_folder(params)
    shutil.rmtree(folder / "figures", ignore_errors=True)
    write_report(params)
    return {
        path.name: path.read_bytes()
        for path in folder.rglob("*")
        if path.suffix in {".csv", ".md", ".json"} and path.name != "costs.csv"
    }


def test_the_archive_holds_no_images_predictions_and_weights(trained):
    about = export_records(trained, ARCHIVE)
    assert (about.packed, about.missing, about.size) == (4, 0, ARCHIVE.stat().st_size)
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall("unpacked", filter="data")
    names = {path.name for path in Path("unpacked").rglob("*") if path.is_file()}
    assert names == {"run.json", "history.parquet", "metrics.json", "correct.npz", "cam.npz"}
    record = Path("unpacked") / layout.record_folder(trained, FDL)
    run = json.loads((record / "run.json").read_bytes())
    records.verify(record, run)
    assert run["left_out"] == ["predictions.npz", "weights-last.safetensors"]
    maps = np.load(record / "cam.npz")
    whole = np.load(layout.record_folder(trained, FDL) / "cam.npz")
    assert set(whole) - set(maps) == {"pixels"}


def test_equal_records_make_equal_bytes(trained):
    export_records(trained, Path("one.tar.gz"))
    export_records(trained, Path("other.tar.gz"))
    assert Path("one.tar.gz").read_bytes() == Path("other.tar.gz").read_bytes()


def git(*arguments):
    subprocess.run(["git", *arguments], check=True, capture_output=True)


def test_an_archive_that_git_tracks_is_not_written_over_unasked(trained):
    git("init")
    ARCHIVE.write_bytes(b"published")
    export_records(trained, ARCHIVE)  # not tracked: any file of one's own
    exported = ARCHIVE.read_bytes()
    ARCHIVE.write_bytes(b"published")
    git("add", "--force", str(ARCHIVE))
    with pytest.raises(InputError, match=r"git tracks this archive.* --output.* --force"):
        export_records(trained, ARCHIVE)
    assert ARCHIVE.read_bytes() == b"published"
    export_records(trained, Path("mine.tar.gz"))
    export_records(trained, ARCHIVE, force=True)
    assert ARCHIVE.read_bytes() == exported
    export_records(trained, ARCHIVE)  # the same records: nothing changes


def test_a_folder_gets_an_archive_of_each_dataset_and_backbone(trained):
    about = export_records(trained, Path("packed"))
    assert [path.name for path in Path("packed").iterdir()] == ["bsd-alexnet.tar.gz"]
    assert about.size == Path("packed/bsd-alexnet.tar.gz").stat().st_size
    before = report(trained)
    for method in ("classical", "fdl"):  # an archive of each, as of two nets
        for folder in Path("results").rglob(f"3shot/{method}"):
            shutil.rmtree(folder)
        export_records(trained, Path(f"parts/without-{method}.tar.gz"))
        import_records(trained, Path("packed"), say=said_nothing)
    shutil.rmtree("results")
    assert import_records(trained, Path("parts"), say=said_nothing).new == about.packed
    assert report(trained) == before
    Path("parts/seed0").mkdir()
    Path("parts/seed0/run.json").touch()
    with pytest.raises(InputError, match="holds records, and archives"):
        import_records(trained, Path("parts"), say=said_nothing)
    with pytest.raises(InputError, match=r"records.zip: the archive is a .tar.gz file, or a folder"):
        export_records(trained, Path("records.zip"))


def test_what_was_imported_can_be_exported_again(exported):
    before = ARCHIVE.read_bytes()
    bring(exported)
    export_records(exported, ARCHIVE)
    assert ARCHIVE.read_bytes() == before


def test_the_report_has_the_same_numbers_without_the_images(trained):
    before = report(trained)
    export_records(trained, ARCHIVE)
    shutil.rmtree("results")
    shutil.rmtree("data")
    assert bring(trained).new == 4
    assert report(trained) == before


def test_images_that_are_here_come_back_into_the_maps(trained):
    path = layout.record_folder(trained, FDL) / "cam.npz"
    before = dict(np.load(path))
    export_records(trained, ARCHIVE)
    shutil.rmtree("results")
    bring(trained)
    after = np.load(path)
    assert {name: after[name].tolist() for name in before} == {name: value.tolist() for name, value in before.items()}


def test_nothing_is_trained_again(exported):
    bring(exported)
    for bundle in exported.bundles():
        run_bundle(exported, bundle, say=said_nothing)
    assert rescore(exported) == dict.fromkeys(rescore(exported), 0) | {"without predictions": 4}


def newer_scores(monkeypatch, *, void=False):
    """The code gets a new metric; or one is corrected, and what older code made of it is void."""
    version = provenance.SCORES_VERSION + 1
    for module in ("fdl.results.state", "fdl.results.scoring", "fdl.training.bundle", "fdl.training.bundle_inputs"):
        monkeypatch.setattr(f"{module}.SCORES_VERSION", version)
    if void:
        monkeypatch.setattr("fdl.results.state.SCORES_VALID_SINCE", version)


def test_a_new_metric_voids_no_record_without_predictions(exported, monkeypatch):
    newer_scores(monkeypatch)
    assert import_records(exported, ARCHIVE, say=said_nothing).new == 4
    assert {state.status for state in Judge(exported).states()} == {"done"}
    assert len(collect(exported).cells) == 4


def test_a_new_metric_is_added_where_there_are_predictions(trained, monkeypatch):
    newer_scores(monkeypatch)
    assert {state.status for state in Judge(trained).states()} == {"stale"}
    rescore(trained)
    assert {state.status for state in Judge(trained).states()} == {"done"}


def test_corrected_scores_do_not_come_in_without_predictions(exported, monkeypatch):
    newer_scores(monkeypatch, void=True)
    said = []
    assert import_records(exported, ARCHIVE, say=said.append).stale == 4
    assert "without the predictions to score again" in said[0]


def test_records_whose_scores_are_void_are_trained_again(exported, monkeypatch):
    bring(exported)
    newer_scores(monkeypatch, void=True)
    assert {state.status for state in Judge(exported).states()} == {"stale"}
    with pytest.raises(InputError, match="4 stale"):
        collect(exported)
    run_bundle(exported, next(iter(exported.bundles())), say=lambda line: None)
    assert {state.status for state in Judge(exported).states()} == {"done"}


def test_only_finished_records_of_these_settings_are_packed(trained):
    shutil.rmtree(layout.record_folder(trained, FDL))
    assert export_records(trained, ARCHIVE).missing == 1
    with pytest.raises(InputError, match="no finished records of these settings"):
        export_records(tiny(epochs=7), ARCHIVE)
    with pytest.raises(InputError, match=r"records\.zip: the archive is a \.tar\.gz file"):
        export_records(trained, Path("records.zip"))


def test_a_damaged_record_is_not_packed(trained):
    path = layout.record_folder(trained, FDL) / "metrics.json"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"metrics\.json: differs from its hash"):
        export_records(trained, ARCHIVE)
    assert not ARCHIVE.exists()


def test_mlflow_gets_its_files_of_a_record_without_images_and_predictions(exported):
    shutil.rmtree("data")
    bring(exported)
    folder = Path("mlflow")
    folder.mkdir()
    write_files(record_view.record_of(exported, Judge(exported).state(FDL)), folder)
    assert {path.name for path in folder.iterdir()} == {"run.json", "metrics.json", "curves.csv", "maps.png"}

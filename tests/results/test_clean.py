"""What `fdl clean` takes and what it leaves."""

import shutil
from pathlib import Path

import pytest

from fdl.core import layout
from fdl.core.errors import InputError
from fdl.core.settings import Cell
from fdl.results import clean as cleaning
from fdl.results.digests import PreparedImages
from fdl.results.locks import bundle_lock
from fdl.results.unfinished import ProgressFile
from tests.projects import tiny

FDL = Cell("bsd", "alexnet", 3, "fdl", 0)


def files(*without):
    """Every file in the project, but those below some folders."""
    found = {path.as_posix() for path in Path().rglob("*") if path.is_file()}
    return {path for path in found if not path.startswith(without)}


def clean(params, **options):
    """Remove what can go; why it could."""
    leftovers = cleaning.find(params, **options)
    cleaning.remove(params, leftovers)
    return {one.path.as_posix(): one.why for one in leftovers}


def begin(params, cell, name):
    """Leave a checkpoint of a training that was stopped."""
    about = {"preset": params.preset, "cell": cell.key, "settings": params.settings_digest(cell), "by": "process 1"}
    ProgressFile(layout.SCRATCH / name, about).write([], 2)
    (layout.SCRATCH / name / "checkpoint.pt").write_bytes(bytes(1000))


def test_a_tidy_project_loses_nothing(trained):
    trained.write(layout.RESULTS)
    before = files()
    assert clean(trained, stale=True) == {}
    assert files() == before


def test_leftovers_go_and_records_stay(trained):
    before = files()
    half = layout.record_folder(trained, FDL).with_name(".seed0.partial")
    half.mkdir()
    (half / "history.parquet").write_bytes(bytes(10))
    tiny(epochs=7).write(layout.RESULTS)
    begin(tiny(epochs=7), FDL, "other-settings")
    begin(tiny(seeds=[5]), Cell("bsd", "alexnet", 3, "fdl", 5), "other-cell")
    begin(tiny(), FDL, "other-images")
    assert clean(trained) == {
        half.as_posix(): "half-written record",
        "scratch/other-settings": "checkpoint of other settings",
        "scratch/other-cell": "checkpoint of a cell that is not in the grid",
        "scratch/other-images": "checkpoint of other images",
        f"results/demo/params/{tiny(epochs=7).hash()}.yaml": "resolved settings that are not today's",
    }
    assert files("scratch/locks") == {path for path in before if not path.startswith("scratch/locks")}


def test_what_a_training_can_go_on_from_stays(trained):
    again = tiny(epochs=7)
    begin(again, FDL, PreparedImages(again).training_digest(FDL))
    begin(trained.model_copy(update={"preset": "lite"}), FDL, "of-another-preset")
    before = files()
    assert clean(again) == {}
    assert files() == before


def test_stale_records_and_those_outside_the_grid_go_with_their_empty_folders(trained):
    kept = files("results/demo/bsd/alexnet/3shot/fdl")
    found = clean(tiny(methods=["classical"]), stale=True)
    assert set(found.values()) == {"record of a cell that is not in the grid"}
    assert not Path("results/demo/bsd/alexnet/3shot/fdl").exists()
    assert files() == kept
    assert set(clean(tiny(epochs=5), stale=True).values()) == {"stale record (epochs: 2 → 5)"}
    assert files("data/", "images/", "scratch/", "params.yaml") == {"results/demo/bsd/alexnet/3shot/bundle.json"}
    assert clean(tiny(shots=[6]), stale=True) == {
        "results/demo/bsd/alexnet/3shot/bundle.json": "receipt of a bundle that is not in the grid"
    }
    assert list(Path("results/demo").rglob("*")) == []


def test_nothing_goes_while_something_is_trained_or_snakemake_works(trained):
    begin(tiny(epochs=7), FDL, "other-settings")
    before = files()
    with bundle_lock("demo", "neu/vgg/5shot"), pytest.raises(InputError, match=r"neu-vgg-5shot: process .* clean when"):
        clean(trained)
    Path(".snakemake/locks").mkdir(parents=True)
    Path(".snakemake/locks/0.input.lock").touch()
    with pytest.raises(InputError, match="Snakemake is at work here"):
        clean(trained)
    shutil.rmtree(".snakemake")
    assert files("scratch/locks") == {path for path in before if not path.startswith("scratch/locks")}


def test_a_link_is_removed_and_what_it_points_to_is_not(trained):
    target = Path("elsewhere")
    record = layout.record_folder(trained, FDL)
    shutil.move(record, target)
    record.symlink_to(target.resolve())
    there = {path.name for path in target.iterdir()}
    assert clean(tiny(methods=["classical"]), stale=True)
    assert not record.exists()
    assert not record.is_symlink()
    assert {path.name for path in target.iterdir()} == there

"""The user's own images: a folder of class folders in, tables out."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fdl.core import layout
from fdl.core.errors import InputError
from fdl.core.settings import Bundle
from fdl.data.own_images import changed, receipt
from fdl.data.prepare import load, prepare
from fdl.data.splits import write_split
from fdl.training.bundle import run_bundle
from tests.projects import BOLT_CLASSES, BOLTS, tiny, write_params, write_photographs
from tests.test_workflow import done

UNEQUAL = dict(zip(BOLT_CLASSES, (12, 6, 20), strict=True))


def quiet(line):
    """No progress."""


def counts(prepared, pool):
    return np.bincount(prepared.labels[prepared.pools == pool], minlength=len(prepared.classes)).tolist()


def test_from_a_folder_of_photographs_to_the_table(project):
    write_photographs("photos/bolts", UNEQUAL)
    titled = BOLTS | {"title": "Bolts & nuts"}
    settings = {"datasets": [titled], "seeds": [0], "selections": ["sum"], "evaluate_every": 1}
    write_params(project / "params.yaml", **settings)
    done()

    prepared = load(Path("data/prepared/own/bolts-32"))
    assert (prepared.source, prepared.synthetic) == ("own", False)
    assert prepared.classes == sorted(BOLT_CLASSES)
    # No test and no validation folder: a fifth of each class, then a fifth of what is left.
    assert prepared.classes == ["<b>große Öffnung", "Riss & Bruch 100 %", "gut"]
    assert [counts(prepared, pool) for pool in range(3)] == [[4, 13, 8], [1, 3, 2], [1, 4, 2]]

    with Path("reports/demo/runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["dataset"] for row in rows} == {"bolts"}
    assert {row["selection"] for row in rows} == {"sum"}
    scored = {(row["combiner"], row["metric"]) for row in rows if row["split"] == "test"}
    combiners = ("member0", "member1", "mean", "best", "hard", "soft")
    assert scored >= {(c, m) for c in combiners for m in ("accuracy", "accuracy_balanced", "f1_macro")}

    # The numbers are those of the predictions.
    record = Path("results/demo/bolts/alexnet/3shot/fdl/seed0")
    stored = np.load(record / "predictions.npz")
    labels, member = stored["test/labels"], stored["sum/test/logits"][0].argmax(-1)
    recalls = [np.mean(member[labels == label] == label) for label in range(3)]
    value = {(row["method"], row["split"], row["combiner"], row["metric"]): float(row["value"]) for row in rows}
    assert value["fdl", "test", "member0", "accuracy_balanced"] == pytest.approx(np.mean(recalls))
    assert json.loads((record / "run.json").read_text())["settings"]["like"] == "neu"

    page = Path("reports/demo/index.html").read_text()
    assert "Bolts &amp; nuts" in page
    assert "<td>bolts" not in page
    assert "Balanced accuracy" in page
    assert "<b>große" not in page
    assert "ynthetic" not in page
    for table in ("accuracy_balanced", "ablation", "costs"):
        assert "Bolts & nuts,AlexNet" in Path(f"reports/demo/tables/{table}.csv").read_text()
    assert Path("reports/demo/figures/accuracy_over_shots.png").stat().st_size > 0

    assert "Nothing to be done" in done()
    # A photograph that was put into another class is noticed by its name.
    photograph, moved = Path("photos/bolts/gut/Foto 11.png"), Path("photos/bolts/Riss & Bruch 100 %/Foto 20.png")
    photograph.rename(moved)
    assert "prepare" in done("--dry-run")
    moved.rename(photograph)
    assert "Nothing to be done" in done()
    # The same photographs as another size, or from another folder, are other images.
    for change in ({"image_size": 48}, {"folder": "photos/others"}):
        write_params(project / "params.yaml", **settings | {"datasets": [BOLTS | change]})
        assert "prepare" in done("--dry-run")


def test_beside_a_published_dataset_each_is_read_from_its_own_place(project):
    write_photographs("photos/bolts", UNEQUAL)
    write_photographs("images/bsd", {"no pitting": 8, "pitting": 8})
    write_params(project / "params.yaml", datasets=["bsd", BOLTS], antialias=True)
    done("data")
    draws = {path.parents[1].relative_to("data/splits").as_posix() for path in Path("data/splits").rglob("*.json")}
    assert draws == {"local/bsd-32-aa", "own/bolts-32"}
    assert load(Path("data/prepared/own/bolts-32")).classes == sorted(BOLT_CLASSES)
    assert load(Path("data/prepared/local/bsd-32-aa")).source == "local"


def test_pools_of_their_own_are_kept_and_validation_is_cut_from_train(project):
    write_photographs("photos/bolts", dict.fromkeys(BOLT_CLASSES, 10), pool="train")
    write_photographs("photos/bolts", UNEQUAL, pool="test")
    params = tiny(datasets=[BOLTS])
    prepared = load(prepare(params, "bolts", say=quiet))
    assert [counts(prepared, pool) for pool in range(3)] == [[8, 8, 8], [2, 2, 2], [6, 20, 12]]


@pytest.mark.parametrize("backbone", ["alexnet", "vgg", "resnet"])
@pytest.mark.parametrize("size", [16, 40])
def test_seven_classes_of_three_shots_leave_a_last_batch_of_one(project, backbone, size):
    write_photographs("photos/bolts", {f"class {number}": 6 for number in range(7)})
    bolts = BOLTS | {"image_size": size}
    params = tiny(datasets=[bolts], backbones=[backbone], seeds=[0], epochs=1, bn_statistics="moving")
    prepare(params, "bolts", say=quiet)
    write_split(params, "bolts", 3, 0)
    receipt = run_bundle(params, Bundle("bolts", backbone, 3), say=quiet)
    assert [cell["status"] for cell in receipt["cells"].values()] == ["done", "done"]
    run = json.loads((layout.record_folder(params, params.cells()[0]) / "run.json").read_text())
    assert run["data"]["train"] == 21
    assert run["data"]["source"] == "own"
    predictions = np.load(layout.record_folder(params, params.cells()[0]) / "predictions.npz")
    assert predictions["last/test/logits"].shape == (2, 7, 7)


def test_the_draw_is_random_from_the_first_seed_on(project):
    """The authors took the first files of NEU; who looks like NEU need not have shuffled folders."""
    write_photographs("photos/bolts", {"a": 20, "b": 20})
    params = tiny(datasets=[BOLTS])
    prepare(params, "bolts", say=quiet)
    split = json.loads(write_split(params, "bolts", 3, 0).read_text())
    assert split["rule"] == "random"
    assert split["source"] == "own"


def save(path, pixels, **options):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def patches(seed, size=40):
    """Smooth patches, another image for every seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC))


def refusal(**changes):
    with pytest.raises(InputError) as error:
        prepare(tiny(datasets=[BOLTS | changes], shots=[3, 5]), "bolts", say=quiet)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_one_class_alone_is_refused(project):
    write_photographs("photos/bolts", {"scratch": 20})
    assert refusal().startswith("photos/bolts: holds one class alone, 'scratch'; there is nothing to tell apart: add")


def test_small_classes_are_told_how_many_images_they_need(project):
    write_photographs("photos/bolts", {"a": 20, "b": 6, "c": 5})
    few = "photos/bolts: 'b' (6), 'c' (5) have too few images: each class needs 7, for 5 shots, a test set, a"
    assert refusal().startswith(few)
    write_photographs("photos/pools", {"a": 6, "b": 5}, pool="train")
    write_photographs("photos/pools", {"a": 5, "b": 5}, pool="test")
    few = "photos/pools: of the train images 'b' (5) has too few images: each class needs 6, for 5 shots, a"
    assert refusal(folder="photos/pools").startswith(few)


@pytest.mark.parametrize(("count", "shots", "needed"), [(5, 3, 6), (8, 6, 9), (13, 9, 14), (30, 20, 32)])
def test_the_number_that_a_class_is_said_to_need_is_the_least_that_does(project, count, shots, needed):
    write_photographs("photos/bolts", {"a": 40, "b": count})
    params = tiny(datasets=[BOLTS], shots=[shots])
    prepare(params, "bolts", say=quiet)
    write_split(params, "bolts", shots, 0)
    with pytest.raises(InputError, match=f"each class needs {needed}, for"):
        prepare(tiny(datasets=[BOLTS], shots=[shots + 1]), "bolts", say=quiet)


def test_a_photograph_under_two_labels_is_a_contradiction(project):
    write_photographs("photos/bolts", dict.fromkeys("ab", 20))
    shutil.copy("photos/bolts/a/Foto 3.png", "photos/bolts/b/again.png")
    line = "photos/bolts: a contradiction: 1 photograph lies there under two labels, a/Foto 3.png (a) = b/again.png (b)"
    assert refusal().startswith(line)


def test_near_copies_are_counted_and_listed(project):
    for number in range(20):
        for label, name in enumerate("ab"):
            save(f"photos/bolts/train/{name}/{number}.png", patches(100 * label + number))
            save(f"photos/bolts/test/{name}/{number}.png", patches(1000 + 100 * label + number))
    save("photos/bolts/test/b/copy.jpg", np.rot90(patches(103)), quality=85)
    save("photos/bolts/train/b/copy.jpg", patches(4), quality=90)
    said = []
    prepared = load(prepare(tiny(datasets=[BOLTS]), "bolts", say=said.append))
    about = json.loads((prepared.folder / "dataset.json").read_text())
    pairs = [[image["id"] for image in pair] for pair in about["near_copies"]]
    assert ["train/b/3.png", "test/b/copy.jpg"] in pairs
    assert ["train/b/copy.jpg", "train/a/4.png"] in pairs
    assert "of an image in an earlier pool: 1; images that look like a copy of one under another label: 1" in said[-1]
    assert "near-copies are listed in data/prepared/own/bolts-32/dataset.json" in said[-1]


@pytest.mark.parametrize("bits", [10, 12])
def test_the_bits_in_use_of_16_bit_files_become_white(project, bits):
    for label, name in enumerate("ab"):
        for number in range(20):
            values = patches(100 * label + number).astype(np.uint16)[..., 0] << (bits - 8)
            values[0, 0] = 2**bits - 1
            save(f"photos/bolts/{name}/{number}.png", values)
    said = []
    prepared = load(prepare(tiny(datasets=[BOLTS]), "bolts", say=said.append))
    assert prepared.white == 2**bits - 1
    assert prepared.images.max() > 250
    assert f"the files of 16 bits (40) hold values up to {2**bits - 1:,}: {bits} bits are in use" in said[-1]


def test_what_transparency_leaves_black_is_refused(project):
    for name in "ab":
        for number in range(20):
            lines = np.zeros((40, 40, 4), np.uint8)
            lines[..., 3] = patches(number)[..., 0]
            save(f"photos/bolts/{name}/{number}.png", lines)
    assert "of 40 partly transparent images a single colour is left on the black that" in (line := refusal())
    assert "flatten them on another colour first" in line


def test_all_unreadable_photographs_are_named(project):
    write_photographs("photos/bolts", dict.fromkeys("ab", 20))
    Path("photos/bolts/a/empty.png").touch()
    Path("photos/bolts/b/page.jpg").write_text("<!DOCTYPE html>")
    line = refusal()
    assert "photos/bolts/a/empty.png: not a readable image (the file is empty)" in line
    assert "photos/bolts/b/page.jpg: not a readable image (in none of the formats PNG, " in line


def test_thin_scratches_survive_unless_nearest_neighbour_is_asked_for(project):
    write_photographs("photos/bolts", dict.fromkeys("ab", 20))
    scratch = np.zeros((320, 320), np.uint8)
    scratch[:, 161] = 255
    save("photos/bolts/a/scratch.png", scratch)
    params = [tiny(datasets=[BOLTS | {"antialias": antialias}]) for antialias in (True, False)]
    folders = [prepare(one, "bolts", say=quiet) for one in params]
    assert [folder.name for folder in folders] == ["bolts-32", "bolts-32-nearest"]
    rows = [folder / "images.npy" for folder in folders]
    shown = [np.load(row)[load(row.parent).ids == "a/scratch.png"].max() for row in rows]
    assert shown[0] > 10
    assert shown[1] == 0


def test_archives_are_unpacked_below_data_and_nothing_into_the_folder(project):
    write_photographs("work", dict.fromkeys("ab", 20))
    shutil.make_archive("photos/bolts/photos", "zip", "work")
    prepare(tiny(datasets=[BOLTS]), "bolts", say=quiet)
    assert [path.name for path in Path("photos/bolts").iterdir()] == ["photos.zip"]
    assert Path("data/extracted/own/bolts/photos.zip/a").is_dir()


def test_a_share_that_is_not_mounted_is_no_other_set_of_photographs(project):
    write_photographs("photos/bolts", dict.fromkeys("ab", 20))
    params = tiny(datasets=[BOLTS])
    prepared = load(prepare(params, "bolts", say=quiet))
    assert receipt(params, "bolts").parent == prepared.folder
    assert (then := receipt(params, "bolts")).is_file()
    Path("photos").rename("elsewhere")
    assert receipt(params, "bolts") == then
    assert changed(params, "bolts", prepared.files) is None
    Path("elsewhere").rename("photos")
    Path("photos/bolts/a/Foto 1.png").touch()
    assert not receipt(params, "bolts").exists()
    assert "not those that were prepared" in changed(params, "bolts", prepared.files)


def test_the_workflow_prepares_again_what_was_prepared_by_hand(project):
    write_photographs("photos/bolts", dict.fromkeys("ab", 20))
    write_params(project / "params.yaml", datasets=[BOLTS], seeds=[0])
    folder = prepare(tiny(datasets=[BOLTS]), "bolts", say=quiet)
    before = np.bincount(load(folder).labels).tolist()
    Path("photos/bolts/a/Foto 1.png").rename("photos/bolts/b/moved.png")
    done("data")
    assert (before, np.bincount(load(folder).labels).tolist()) == ([20, 20], [19, 21])
    assert "Nothing to be done" in done("data")

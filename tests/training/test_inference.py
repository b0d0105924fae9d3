"""A trained ensemble on images of a user's: the same numbers as in its record."""

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fdl.core import layout
from fdl.core.errors import InputError
from fdl.core.settings import Cell
from fdl.data import prepare, splits
from fdl.evaluation.voting import softmax
from fdl.training.inference import as_csv, image_files, load_ensemble, predict_files
from tests.projects import tiny

FDL = Cell("bsd", "alexnet", 3, "fdl", 0)
CLASSES = ["no pitting", "pitting"]


@pytest.fixture
def record(trained):
    """The record of a cell with kept weights."""
    return layout.record_folder(trained, FDL)


def test_the_test_images_get_the_predictions_of_the_record(trained, record):
    prepared = prepare.load(layout.prepared_folder(trained, "bsd"))
    rows = splits.load_split(layout.split_file(trained, "bsd", 3, 0), prepared).test
    for number, pixels in enumerate(prepared.rows(rows)):
        Path("photos").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(f"photos/{number:03}.png")
    predictions, unreadable = predict_files(load_ensemble(record), Path("photos"), say=print)
    assert unreadable == 0
    logits = np.load(record / "predictions.npz")["last/test/logits"]
    mean = softmax(logits).mean(axis=0)
    assert [one.name for one in predictions] == [f"{number:03}.png" for number in range(len(rows))]
    assert [one.chosen for one in predictions] == [CLASSES[best] for best in mean.argmax(axis=1)]
    assert [one.probability for one in predictions] == pytest.approx(mean.max(axis=1).tolist(), rel=1e-12)
    assert [[CLASSES.index(vote) for vote in one.votes] for one in predictions] == logits.argmax(-1).T.tolist()


def test_images_of_any_size_format_and_folder_are_read_and_bad_ones_named(record):
    generator = np.random.default_rng(0)
    image = Image.fromarray(generator.integers(0, 255, (50, 40, 3), dtype=np.uint8))
    for name in ("b.tif", "a.JPG", "deeper/c.webp", "d.gif", "grey.png", "deep.png"):
        path = Path("photos", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        image.convert("L" if name == "grey.png" else "P" if name == "d.gif" else "RGB").save(path)
    Image.fromarray(generator.integers(0, 65535, (9, 9), dtype=np.uint16)).save("photos/deep.png")
    Path("photos/notes.txt").write_text("not an image")
    Path("photos/cut.png").write_bytes(Path("photos/grey.png").read_bytes()[:60])
    said = []
    predictions, unreadable = predict_files(load_ensemble(record), Path("photos"), say=said.append)
    names = ["a.JPG", "b.tif", "d.gif", "deep.png", "deeper/c.webp", "grey.png"]
    assert [one.name for one in predictions] == names
    assert unreadable == 2
    assert said[0].startswith("photos/notes.txt: not one of .png")
    assert said[1].startswith("photos/cut.png: not a readable image")


def test_what_a_training_passes_over_is_passed_over_and_all_else_is_named(record):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    for name in ("a.png", "._a.png", "@eaDir/a.png", "deeper/__MACOSX/b.png", "deeper/c.png", ".thumbs/d.png"):
        Path("photos", name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(Path("photos", name))
    for name in ("Thumbs.db", "LICENSE"):
        Path("photos", name).touch()
    picture.save("photos/pages.tif", save_all=True, append_images=[picture])
    for name in (b"gr\xfcn.png", b"old\xdf/e.png", b"empty.png", b"photo.heic"):
        path = os.path.join(b"photos", name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb"):
            pass
    said = []
    predictions, unreadable = predict_files(load_ensemble(record), Path("photos"), say=said.append)
    assert [one.name for one in predictions] == ["a.png", "deeper/c.png", "pages.tif"]
    assert unreadable == 4
    assert len(said) == 5
    for part in (
        "'gr\\xfcn.png' in it is not UTF-8",
        "'old\\xdf' in it is not UTF-8",
        "empty.png: not a readable image",
        "photo.heic: not one of",
        "pages.tif: holds several pages; the first counts",
    ):
        assert any(part in line for line in said), part


def test_16_bit_images_are_scaled_as_in_the_training(record):
    run = json.loads((record / "run.json").read_text())
    (record / "run.json").write_text(json.dumps(run | {"data": run["data"] | {"white": 4095}}))
    values = np.random.default_rng(0).integers(0, 4096, (32, 32), dtype=np.uint16)
    content = io.BytesIO()
    Image.fromarray(values).save(content, "PNG")
    decoded = load_ensemble(record).decode(content.getvalue(), "x")
    np.testing.assert_array_equal(decoded[..., 0], np.rint(values / 4095 * 255))


def test_postscript_is_not_opened_as_an_image(record):
    Path("photos").mkdir()
    Path("photos/a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    said = []
    assert predict_files(load_ensemble(record), Path("photos"), say=said.append) == ([], 1)
    assert "not a readable image" in said[0]


def test_one_image_may_be_named(record):
    assert image_files(Path("images/bsd/test/pitting/0.png"))[0] == [Path("images/bsd/test/pitting/0.png")]
    predictions, _ = predict_files(load_ensemble(record), Path("images/bsd/test/pitting/0.png"), say=print)
    assert [one.name for one in predictions] == ["0.png"]


def test_the_table_has_a_row_per_image(record):
    predictions, _ = predict_files(load_ensemble(record), Path("images/bsd/test"), say=print)
    rows = list(csv.DictReader(io.StringIO(as_csv(predictions, 2).decode())))
    assert list(rows[0]) == ["file", "class", "probability", "member0", "member1"]
    assert [row["file"] for row in rows][:2] == ["no pitting/0.png", "no pitting/1.png"]
    assert {row["class"] for row in rows} <= set(CLASSES)
    assert all(0.5 <= float(row["probability"]) <= 1 for row in rows)


def test_overlays_show_the_image_and_each_members_map(record):
    ensemble = load_ensemble(record)
    Image.open("images/bsd/test/pitting/1.png").save("images/bsd/test/pitting/1.bmp")
    Image.open("images/bsd/test/pitting/1.png").save("images/bsd/test/pitting/9.bmp")
    predictions, _ = predict_files(ensemble, Path("images/bsd/test"), overlays=Path("maps"), say=print)
    written = sorted(path.relative_to("maps").as_posix() for path in Path("maps").rglob("*.png"))
    names = {
        "pitting/1.png": "pitting/1.png.png",
        "pitting/1.bmp": "pitting/1.bmp.png",
        "pitting/9.bmp": "pitting/9.png",
    }
    assert written == sorted(names.get(one.name, one.name) for one in predictions)
    picture = np.asarray(Image.open("maps/pitting/0.png"))
    assert picture.shape == (128, 3 * 128, 3)
    assert np.array_equal(picture[::4, :128:4], np.asarray(Image.open("images/bsd/test/pitting/0.png")))
    grey = np.asarray(Image.open("images/bsd/test/pitting/0.png").convert("L"))
    coloured = [np.ptp(picture[:, start : start + 128].astype(int), axis=-1).max() for start in (128, 256)]
    assert max(coloured) > 30, "the maps are in colour"
    assert grey.shape == (32, 32)


def test_weights_that_were_not_kept_or_are_missing_are_reported(trained, record):
    with pytest.raises(InputError, match=r"holds no weights of selection 'own'; it holds those of last$"):
        load_ensemble(record, "own")
    for path in record.glob("weights-*"):
        path.unlink()
    with pytest.raises(InputError, match=r"weights-last\.safetensors: missing from the record"):
        load_ensemble(record)


def test_folders_without_weights_or_images_are_reported_in_one_line(trained, record, monkeypatch):
    from fdl.data.splits import write_split
    from fdl.training.bundle import run_bundle

    write_split(trained, "bsd", 3, 2)
    without = tiny(seeds=[2], methods=["fdl"])
    run_bundle(without, next(iter(without.bundles())), say=lambda line: None)
    with pytest.raises(InputError, match="no weights were kept; set keep_weights: true"):
        load_ensemble(layout.record_folder(without, without.cells()[0]))
    with pytest.raises(InputError, match=r"^nowhere: no such folder"):
        load_ensemble(Path("nowhere"))
    with pytest.raises(InputError, match=r"^images: holds no record"):
        load_ensemble(Path("images"))
    with pytest.raises(InputError, match=r"^data/splits: holds no images"):
        image_files(Path("data/splits"))


def test_a_flipped_byte_in_the_weights_is_found(record):
    path = record / "weights-last.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="differs from its hash"):
        load_ensemble(record)

"""ciFAIR's lists: which test images of a draw resemble one of its training images, and what is right without them."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fdl.core import layout
from fdl.core.errors import InputError
from fdl.core.places import Place
from fdl.core.settings import resolve
from fdl.data.near_duplicates import resembling
from fdl.data.prepare import Prepared, load, prepare
from fdl.data.sources import SOURCES
from fdl.data.splits import load_split, write_split
from fdl.data.synthetic import write_twin
from fdl.reporting.results import read_results
from fdl.reporting.tables import ENTRIES
from fdl.results.collect import collect
from fdl.training.bundle import run_bundle
from tests.projects import FILE, TINY, tiny

LIST = Path("lists/duplicates.csv")


def write_list(pairs, *, header="TestID,TrainID,Distance,Judgment"):
    LIST.parent.mkdir(exist_ok=True)
    LIST.write_text("\n".join([header, *(f"{image},{other},0.2,1" for image, other in pairs)]) + "\n")
    return str(LIST)


def official(monkeypatch, dataset, **overrides):
    """Settings on a synthetic twin that lies where the official files would."""
    page = (Place("page", "https://data.example"),)
    monkeypatch.setitem(SOURCES, dataset, replace(SOURCES[dataset], places=page, counted=False, published={"all": 0}))
    write_twin(dataset, layout.RAW / "official" / dataset)
    values = {"source": "official", "data_dir": None, "datasets": [dataset], "seeds": [0]} | overrides
    params = tiny(**values)
    prepare(params, dataset, say=lambda line: None)
    return params, load(layout.prepared_folder(params, dataset))


def numbered(prepared: Prepared, rows):
    """The images' places in the official files of CIFAR-10, from their names."""
    places = [re.fullmatch(r"(?:data_batch_(\d)|test_batch)#(\d+)", prepared.ids[row]) for row in rows]
    return [10_000 * (int(place[1] or 1) - 1) + int(place[2]) for place in places if place]


def test_a_draw_names_the_test_images_that_resemble_its_training_images(project, monkeypatch):
    dataset = "cifar10"
    bare, prepared = official(monkeypatch, dataset)
    plain = load_split(write_split(bare, dataset, 3, 0), prepared)
    assert plain.near_duplicates is None
    drawn, test = numbered(prepared, plain.train), numbered(prepared, plain.test)
    others = sorted({*numbered(prepared, np.flatnonzero(prepared.pools == 0))} - {*drawn})
    assert max(drawn) >= 10_000  # in a later file of training images than the first
    pairs = [(test[4], drawn[0]), (test[1], drawn[-1]), (test[1], others[0]), (test[2], others[1])]
    params = tiny(**vars_of(bare), near_duplicates={dataset: write_list(pairs)})
    split = load_split(write_split(params, dataset, 3, 0), prepared)
    assert split.near_duplicates is not None
    assert split.near_duplicates.tolist() == [plain.test[1], plain.test[4]]
    for name in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(split, name), getattr(plain, name))
    assert split.hash != plain.hash


def vars_of(params):
    return {"source": "official", "data_dir": None, "datasets": params.datasets, "seeds": params.seeds}


def test_another_list_is_another_draw(project, monkeypatch):
    bare, _ = official(monkeypatch, "cifar10")
    first, second = (tiny(**vars_of(bare), near_duplicates={"cifar10": write_list([(0, other)])}) for other in (1, 1))
    files = [layout.split_file(params, "cifar10", 3, 0) for params in (bare, first, second)]
    assert files[0].name == "draw0.json"
    assert files[1] == files[2] != files[0]
    write_list([(0, 2)])
    assert layout.split_file(second, "cifar10", 3, 0) not in files


def test_accuracy_leaves_them_out(project, monkeypatch):
    bare, prepared = official(monkeypatch, "cifar10")
    plain = load_split(write_split(bare, "cifar10", 3, 0), prepared)
    test, drawn = numbered(prepared, plain.test), numbered(prepared, plain.train)
    listed = write_list([(image, drawn[0]) for image in test[:100]])
    params = tiny(**vars_of(bare), near_duplicates={"cifar10": listed})
    write_split(params, "cifar10", 3, 0)
    for bundle in params.bundles():
        run_bundle(params, bundle, say=lambda line: None)
    collect(params)
    runs = pd.read_csv(layout.report_folder(params) / "runs.csv")
    values = runs[runs["metric"] == "accuracy_distinct"].set_index(["method", "combiner"])["value"]
    cells = params.cells()
    assert len(values) == (runs[runs["split"] == "test"]["metric"] == "accuracy").sum()  # of all combiners
    differ = False
    for cell in cells:
        with np.load(layout.record_folder(params, cell) / "predictions.npz") as kept:
            right = kept["last/test/logits"].argmax(-1) == kept["test/labels"]
        for member, images in enumerate(right):
            assert values[cell.method, f"member{member}"] == images[100:].mean()
            differ |= images[100:].mean() != images.mean()
    assert differ
    (entry,) = (entry for entry in ENTRIES if entry.name == "results_near_duplicates")
    (name, _, measure), *_ = entry.each(params)
    table = entry.make(read_results(params), *measure)
    assert name == "accuracy_distinct"
    assert table.caption.startswith("Test accuracy without near-duplicates in %")
    assert not entry.each(bare)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("TestID,TrainID\n", "not one of ciFAIR's lists"),
        ("test,train\n1,2\n", "whole numbers in the columns TestID and TrainID"),
        ("TestID,TrainID\n1,two\n", "not one of ciFAIR's lists"),
        ("TestID,TrainID\n1\n", "not one of ciFAIR's lists"),
        ("\x00", "not one of ciFAIR's lists"),
    ],
)
def test_what_is_no_list_is_refused(project, monkeypatch, content, message):
    bare, _ = official(monkeypatch, "cifar10")
    file = Path(write_list([]))
    file.write_text(content)
    params = tiny(**vars_of(bare), near_duplicates={"cifar10": str(file)})
    with pytest.raises(InputError, match=re.escape(message)) as error:
        write_split(params, "cifar10", 3, 0)
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"source": "local"}, "its list numbers the official files, but source is 'local'"),
        ({"near_duplicates": {"cifar10": "no.csv"}}, "cifar10: no.csv: no such file; nothing is downloaded"),
        ({"near_duplicates": {"neu": "neu.csv"}}, "neu: ciFAIR lists only those of cifar10 and cifar100"),
    ],
)
def test_settings_that_cannot_be_compared_are_refused(project, overrides, message):
    values = {"source": "official", "near_duplicates": {"cifar10": write_list([(0, 1)])}} | overrides
    with pytest.raises(InputError, match=re.escape(message)):
        resolve(FILE, preset="demo", overrides=TINY | values)


def test_images_of_cifar100_are_numbered_in_two_files(project, monkeypatch):
    _, prepared = official(monkeypatch, "cifar10")
    named = replace(prepared, ids=np.array(["train#7", "train#49999", "test#0", "test#7"]))
    rows = resembling(Path(write_list([(7, 49_999), (0, 8)])), named, np.array([0, 1]), np.array([2, 3]))
    assert rows.tolist() == [3]


def test_images_without_numbers_are_refused(project, monkeypatch):
    _, prepared = official(monkeypatch, "cifar10")
    renamed = replace(prepared, ids=np.array([f"cat/{row}.png" for row in range(len(prepared.ids))]))
    with pytest.raises(InputError, match=re.escape("image cat/0.png has no number in the official files")):
        resembling(Path(write_list([(0, 1)])), renamed, np.arange(3), np.arange(3))


def test_the_list_stands_in_the_draw_and_only_there(project, monkeypatch):
    bare, _ = official(monkeypatch, "cifar10")
    params = tiny(**vars_of(bare), near_duplicates={"cifar10": write_list([(0, 1)])})
    with_list, without = (json.loads(write_split(each, "cifar10", 3, 0).read_bytes()) for each in (params, bare))
    assert set(with_list) - set(without) == {"near_duplicates"}
    cell = params.cells()[0]
    assert params.settings_digest(cell) == bare.settings_digest(cell)

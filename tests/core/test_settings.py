"""Settings: what is resolved, what is refused, and what a changed value trains again."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fdl.core.errors import InputError
from fdl.core.protocol import DATASETS
from fdl.core.settings import Bundle, Cell, Params, json_schema, load, resolve
from fdl.data.locate import locate

ROOT = Path(__file__).parents[2]
FILE = yaml.safe_load((ROOT / "params.yaml").read_text())


BOLTS = {"name": "bolts", "folder": "photos/bolts", "image_size": 48, "like": "neu"}


def demo(**overrides):
    return resolve(FILE, preset="demo", overrides=overrides)


def test_presets_have_the_announced_sizes():
    """The demo: 6 datasets × 3 backbones × 2 shots × 2 methods × 2 seeds, and so on."""
    sizes = {name: (len(p.cells()), len(p.bundles())) for name in FILE["presets"] for p in [resolve(FILE, preset=name)]}
    assert sizes == {
        "demo": (144, 36),
        "small": (1320, 78),
        "small-cosine": (540, 18),
        "small-neu-weights": (120, 6),
        "small-weights": (240, 12),
        "small-heads": (180, 18),
        "lite": (60, 6),
        "lite-selection": (40, 4),
        "lite-moving": (30, 3),
        "lite-float32": (60, 6),
        "lite-cosine": (45, 3),
        "lite-neu-weights": (30, 3),
        "authors-cifar10": (20, 2),
        "authors": (200, 20),
        "paper": (1080, 108),
    }


def test_order_is_defaults_preset_overrides():
    raw = FILE | {"overrides": {"epochs": 7}}
    assert resolve(FILE, preset="demo").epochs == 6
    assert resolve(raw, preset="demo").epochs == 7
    assert resolve(raw, preset="demo", overrides={"epochs": 9}).epochs == 9
    assert resolve(FILE, preset="demo").bn_statistics == "reestimate"
    assert resolve(FILE, preset="paper").bn_statistics == "moving"


@pytest.mark.parametrize(("preset", "key", "value"), [("authors", "shots", [3]), ("small", "epochs", 9)])
def test_an_override_that_the_grid_would_hide_is_refused(preset, key, value):
    with pytest.raises(InputError, match=f"{key}: a block of the grid of preset '{preset}' names its own; set grid"):
        resolve(FILE, preset=preset, overrides={key: value})
    with pytest.raises(InputError, match=f"{key}: a block of the grid"):
        resolve(FILE | {"overrides": {key: value}}, preset=preset)
    assert resolve(FILE, preset=preset, overrides={key: value, "grid": None}).grid is None
    assert resolve(FILE, preset=preset, overrides={"width": 0.5}).grid is not None


def test_null_means_what_the_authors_used():
    paper = resolve(FILE, preset="paper")
    cell = Cell("miniimagenet", "resnet", 3, "fdl", 0)
    wanted = paper.training_settings(cell)
    assert (wanted["epochs"], wanted["image_size"], wanted["learning_rate"]) == (200, 84, 1e-3)
    assert wanted["method_params"] == {"cosine_weight": 1, "gaussian_weight": 10}
    assert resolve(FILE, preset="authors").selections_of("neu") == ["sum3"]
    assert resolve(FILE, preset="authors").selections_of("cifar10") == ["sum"]


def test_weights_do_not_change_within_the_papers_shots():
    """docs/deviations.md: claim C3 would mix the effect of the shots with that of the weights."""
    for name, dataset in DATASETS.items():
        for backbone, protocol in dataset.backbones.items():
            assert {protocol.weights_for(k) for k in (3, 5, 10, 20, 50, 100)} == {protocol.weights}, (name, backbone)
    assert DATASETS["tex"].backbones["resnet"].weights == (1, 0.1)
    assert DATASETS["cifar10"].backbones["alexnet"].weights_for(400) == (0.5, 0.01)


def test_a_block_of_the_grid_may_have_its_own_epochs():
    authors = resolve(FILE, preset="authors")
    assert authors.epochs_of(Cell("cifar10", "resnet", 3, "fdl", 0)) == 500
    assert authors.epochs_of(Cell("cifar10", "alexnet", 10, "fdl", 0)) == 300


def test_the_verdicts_of_small_rest_on_its_whole_grid():
    small = resolve(FILE, preset="small")
    frozen = resolve(FILE, preset="small", overrides={"grid": FILE["presets"]["small"]["claims"]["grid"]})
    assert set(small.cells()) == set(frozen.cells())
    epochs = {(cell.dataset, cell.shots): small.epochs_of(cell) for cell in small.cells()}
    assert [epochs["neu", shots] for shots in (3, 5, 10, 20, 50, 100)] == [60, 60, 60, 40, 20, 12]
    assert [epochs["cifar100", shots] for shots in (3, 5, 10, 20)] == [30, 20, 12, 8]


def test_fixed_draws_keep_the_images():
    assert [resolve(FILE, preset="authors").draw_of(seed) for seed in (0, 3)] == [0, 0]
    assert [resolve(FILE, preset="paper").draw_of(seed) for seed in (0, 3)] == [0, 3]


def test_the_authors_grids_are_of_the_published_images():
    assert {name: resolve(FILE, preset=name).source for name in FILE["presets"]} == {
        "demo": "synthetic",
        "small": "local",
        "small-cosine": "local",
        "small-neu-weights": "local",
        "small-weights": "local",
        "small-heads": "local",
        "lite": "local",
        "lite-selection": "local",
        "lite-moving": "local",
        "lite-float32": "local",
        "lite-cosine": "local",
        "lite-neu-weights": "local",
        "authors-cifar10": "local",
        "authors": "official",
        "paper": "official",
    }


def test_own_images_are_trained_on_as_the_dataset_that_they_are_like():
    params = demo(datasets=["neu", BOLTS], learning_rate=None, epochs=None, selections=["authors"], evaluate_every=1)
    assert params.dataset_names == ["neu", "bolts"]
    assert [cell.dataset for cell in params.cells()] == ["neu"] * 24 + ["bolts"] * 24
    neu, bolts = (params.training_settings(Cell(name, "resnet", 3, "fdl", 0)) for name in ("neu", "bolts"))
    differ = {"cell", "source", "image_size", "like", "antialias"}
    assert {name for name in bolts if bolts[name] != neu.get(name)} == differ
    assert (bolts["source"], bolts["image_size"], bolts["like"]) == ("own", 48, "neu")
    assert params.source_of("neu") == "synthetic"


def test_own_images_have_a_protocol_without_classes():
    """Their classes are folder names, which the settings do not know."""
    params = demo(datasets=["neu", BOLTS])
    assert params.protocol("neu") is DATASETS["neu"]
    bolts = params.protocol("bolts")
    assert (bolts.title, bolts.classes, bolts.image_size, bolts.first_k) == ("bolts", (), 48, False)
    assert bolts.backbones == DATASETS["neu"].backbones
    assert params.own("neu") is None


def test_the_grid_names_own_images():
    """By their name, in blocks, in the claims and where a value differs by dataset."""
    block = [{"datasets": ["bolts"], "seeds": [0]}]
    params = demo(datasets=["neu", BOLTS], grid=block, claims={"grid": block}, epochs={"bolts": 7})
    assert {cell.dataset for cell in params.cells()} == {"bolts"}
    assert {params.epochs_of(cell) for cell in params.cells()} == {7}


def test_the_folder_of_own_images_may_begin_with_a_variable(monkeypatch):
    monkeypatch.setenv("FDL_DATA_DIR", "/somewhere")
    own = demo(datasets=[BOLTS | {"folder": "$FDL_DATA_DIR/bolts"}]).own("bolts")
    assert own.path == Path("/somewhere/bolts")
    monkeypatch.delenv("FDL_DATA_DIR")
    with pytest.raises(InputError, match=r"\$FDL_DATA_DIR/bolts: a variable of the environment is not set"):
        locate(demo(datasets=[BOLTS | {"folder": "$FDL_DATA_DIR/bolts"}]), "bolts")


@pytest.mark.parametrize("change", [{"image_size": 49}, {"like": "bsd"}])
def test_own_images_are_trained_again_when_they_are_described_otherwise(change):
    cell = Cell("bolts", "alexnet", 3, "classical", 0)
    before, after = (demo(datasets=[bolts]) for bolts in (BOLTS, BOLTS | change))
    assert before.settings_digest(cell) != after.settings_digest(cell)
    assert before.settings_digest(cell) == demo(datasets=["neu", BOLTS], source="official").settings_digest(cell)


def test_settings_of_published_datasets_hold_what_trained_records_hold():
    """A key more would train every stored cell again; `antialias` is in the hash of the pixels."""
    cell = Cell("neu", "alexnet", 3, "classical", 0)
    settings = demo(width=1.0).training_settings(cell)
    # Narrow nets are trained as programs, whose numbers have a version of their own.
    assert set(demo(width=0.5).training_settings(cell)) - set(settings) == {"program_version"}
    assert set(settings) == {
        *("cell", "source", "draw", "method_digest", "method_params", "variant", "members", "image_size", "width"),
        *("epochs", "batch_size", "learning_rate", "augment", "selections", "evaluate_every", "bn_statistics"),
        *("precision", "training_version"),
    }


@pytest.mark.parametrize("preset", ["demo", "small", "paper"])
def test_the_key_of_a_cell_is_read_as_the_cell(preset):
    cells = resolve(FILE, preset=preset).cells()
    assert [Cell.parse(cell.key) for cell in cells] == cells


@pytest.mark.parametrize(
    "key",
    ["", "neu/alexnet/3shot", "neu/alexnet/3/fdl/seed0", "neu/alexnet/3shot/fdl/0", "a/b/c/3shot/d/seed0"],
)
def test_what_is_no_key_of_a_cell_is_refused(key):
    with pytest.raises(ValueError, match="not <dataset>/<backbone>"):
        Cell.parse(key)


def test_keys_name_the_folders():
    cell = Cell("neu", "vgg", 5, "fdl", 2)
    assert cell.key == "neu/vgg/5shot/fdl/seed2"
    assert cell.bundle == Bundle("neu", "vgg", 5)
    assert cell.bundle.key == "neu/vgg/5shot"


RETRAINS = {
    "epochs": 16,
    "batch_size": 5,
    "learning_rate": 0.5,
    "width": 0.25,
    "image_size": 64,
    "members": 4,
    "augment": False,
    "bn_statistics": "moving",
    "precision": "tf32",
    "source": "local",
    "antialias": True,
}
KEEPS = {
    "threads": 2,
    "device": "cpu",
    "keep_weights": True,
    "seeds": [0, 1, 2],
    "data_dir": "elsewhere",
}


@pytest.mark.parametrize("key", RETRAINS)
def test_what_decides_numbers_is_in_the_digest(key):
    cell = Cell("neu", "alexnet", 3, "fdl", 0)
    assert demo().settings_digest(cell) != demo(**{key: RETRAINS[key]}).settings_digest(cell)


@pytest.mark.parametrize("key", KEEPS)
def test_what_decides_nothing_is_not(key):
    cell = Cell("neu", "alexnet", 3, "fdl", 0)
    assert demo().settings_digest(cell) == demo(**{key: KEEPS[key]}).settings_digest(cell)


def test_the_weights_of_the_distance_loss_retrain_only_methods_that_use_it():
    changed = demo(cosine_weight=3.0)
    for method, same in (("classical", True), ("fdl", False)):
        cell = Cell("neu", "alexnet", 3, method, 0)
        assert (demo().settings_digest(cell) == changed.settings_digest(cell)) is same


def test_the_title_of_own_images_is_printed_and_trains_nothing_again():
    named, titled = demo(datasets=[BOLTS]), demo(datasets=[BOLTS | {"title": "Bolts & nuts"}])
    assert [params.protocol("bolts").title for params in (named, titled)] == ["bolts", "Bolts & nuts"]
    cell = Cell("bolts", "alexnet", 3, "fdl", 0)
    assert named.settings_digest(cell) == titled.settings_digest(cell)


WRONG = {
    "absent and in the grid": ({"absent": {"neu": "no images"}}, "absent: 'neu' is in the grid; name it in one"),
    "absent, but unknown": ({"absent": {"nue": "no images"}}, "absent: 'nue' is not allowed"),
    "unknown key, near miss": ({"epoch": 5}, "unknown key 'epoch'; did you mean 'epochs'?"),
    "unknown key": ({"zzz": 5}, "unknown key 'zzz'; there are: preset, source"),
    "wrong type": ({"batch_size": "ten"}, "batch_size: 'ten' is not allowed"),
    "too small": ({"epochs": 0}, "epochs: 0 is not allowed"),
    "no such rules": ({"claims": {"grid": None, "rules": 3}}, "claims.rules: 3 is not allowed: input should be 1 or 2"),
    "reruns of no dataset": ({"claims": {"grid": None, "reruns": {"nue": 1.0}}}, "claims.reruns: unknown 'nue'"),
    "fraction": ({"members": 2.5}, "members: 2.5 is not allowed"),
    "bool is no number": ({"threads": True}, "threads: True is not allowed"),
    "not a number": ({"learning_rate": float("nan")}, "learning_rate: nan is not allowed"),
    "infinite": ({"gaussian_weight": float("inf")}, "gaussian_weight: inf is not allowed"),
    "unknown dataset": ({"datasets": ["neus"]}, "datasets.0: 'neus' is not allowed: input should be 'cifar10'"),
    "shell in a dataset": ({"datasets": ["neu; rm -rf /"]}, "datasets.0: 'neu; rm -rf /' is not allowed"),
    "unknown method": ({"methods": ["classic"]}, "methods: unknown 'classic'; did you mean 'classical'?"),
    "no seeds": ({"seeds": []}, "seeds: [] is not allowed"),
    "a seed twice": ({"seeds": [1, 1]}, "seeds: [1, 1] names a value twice"),
    "negative seed": ({"seeds": [-1]}, "seeds.0: -1 is not allowed"),
    "selection without validations": ({"selections": ["sum"]}, "needs validations: set evaluate_every"),
    "a preset in an override": ({"preset": "paper"}, "'preset' cannot be set inside a preset or an override"),
    "a block with an unknown key": ({"grid": [{"dataset": ["neu"]}]}, "grid.0: unknown key 'dataset'"),
    "two blocks with a cell": ({"grid": [{}, {"datasets": ["neu"]}]}, "grid: two blocks name the same cell"),
    "a path in data_dir": ({"data_dir": 3}, "data_dir: 3 is not allowed"),
    "own images under a published name": ({"datasets": [BOLTS | {"name": "neu"}]}, "cannot be called 'neu'"),
    "a dash in a name": ({"datasets": [BOLTS | {"name": "my-bolts"}]}, "datasets.0.name: 'my-bolts' is not allowed"),
    "own images like nothing": ({"datasets": [BOLTS | {"like": "nue"}]}, "datasets.0.like: 'nue' is not allowed"),
    "own images, key missing": ({"datasets": [{"name": "bolts"}]}, "datasets.0.folder: missing; your own images need"),
    "own images, unknown key": ({"datasets": [BOLTS | {"size": 3}]}, "datasets.0: unknown key 'size'"),
    "own images twice": ({"datasets": [BOLTS, BOLTS]}, "datasets: ['bolts', 'bolts'] names a value twice"),
    "a number as dataset": ({"datasets": [3]}, "datasets.0: 3 is not allowed: input should be 'cifar10'"),
    "a block of unknown images": ({"grid": [{"datasets": ["bolt"]}]}, "datasets: unknown 'bolt'; there are: cifar10"),
    "no block of the grid": ({"grid": []}, "grid: [] is not allowed"),
    "no block of the claims": ({"claims": {"grid": []}}, "claims.grid: [] is not allowed"),
    "too many cells": (
        {"seeds": [*range(1000)], "shots": [*range(1, 101)]},
        "grid: 3,600,000 cells are too many: at most 100,000",
    ),
    "too many claimed cells": (
        {"claims": {"grid": [{"seeds": [*range(1000)], "shots": [*range(1, 101)]}]}},
        "claims.grid: 3,600,000 cells are too many: at most 100,000",
    ),
    "octal or decimal": ({"epochs": "010"}, "epochs: '010' is not allowed: input should be a valid integer; write"),
    "hexadecimal": ({"seeds": ["0x1f"]}, "seeds.0: '0x1f' is not allowed: input should be a valid integer; write"),
    "minutes or a number": ({"epochs": "1:30"}, "epochs: '1:30' is not allowed"),
    "yes": ({"augment": "yes"}, "augment: 'yes' is not allowed: input should be a valid boolean; write true or false"),
    "Python's null": ({"grid": "None"}, "grid: 'None' is not allowed: input should be a valid list; write null"),
    "a name without its list": ({"methods": "fdl"}, "input should be a valid list; write [fdl]"),
    "a number as text": ({"data_dir": 7}, "in quotes it is text: data_dir: '7'"),
    "epochs of unknown images": ({"epochs": {"nue": 3}}, "epochs: unknown 'nue'; did you mean 'neu'?"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_one_line(case):
    overrides, message = WRONG[case]
    with pytest.raises(InputError) as error:
        demo(**overrides)
    text = str(error.value)
    assert message in text
    assert "\n" not in text
    assert "pydantic" not in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("preset: [", "not valid YAML"),
        ("- a\n- b", "must be a mapping"),
        ("", "must be a mapping"),
        ("preset: nope\npresets: {demo: {}}", "preset: unknown 'nope'"),
        ("preset: demo\npresets: 3", "presets: must be a mapping"),
        (
            "preset: demo\npresets: {demo: {}}",
            "missing; every setting must be in the file (one with a few settings is for --configfile)",
        ),
        ("a: *b", "not valid YAML"),
        ("\x00", "not valid YAML"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, content, message):
    path = tmp_path / "params.yaml"
    path.write_text(content)
    with pytest.raises(InputError) as error:
        load(path)
    assert str(path) in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "params.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"preset: \xe4\xff")
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path / "latin.yaml")


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(st.sampled_from(sorted(Params.model_fields)) | st.text(max_size=6), VALUES, max_size=3))
def test_any_override_is_resolved_or_refused_in_one_line(overrides):
    try:
        resolved = demo(**{str(key): value for key, value in overrides.items()})
    except InputError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017 - both outcomes are right
    else:
        assert resolved.cells()


def test_a_resolved_file_is_the_same_settings(tmp_path):
    params = demo(seeds=[4], datasets=["neu", BOLTS])
    path = params.write(tmp_path)
    assert path == tmp_path / "demo" / "params" / f"{params.hash()}.yaml"
    assert load(path) == params
    before = path.stat().st_mtime_ns
    params.write(tmp_path)
    assert path.stat().st_mtime_ns == before, "never written again"
    with pytest.raises(InputError, match="holds the resolved settings of 'demo', not 'paper'"):
        load(path, preset="paper")


def test_the_committed_schema_is_the_models():
    committed = json.loads((ROOT / "workflow/schemas/params.schema.json").read_text())
    assert committed == json_schema()


def test_the_schema_accepts_the_file_and_refuses_an_unknown_key():
    import jsonschema

    jsonschema.validate(FILE, json_schema())
    jsonschema.validate(FILE | {"overrides": {"datasets": ["neu", BOLTS]}}, json_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(FILE | {"epoch": 3}, json_schema())

"""How files of settings are read, and what lies on top of them when several say something."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fdl.core.errors import InputError
from fdl.core.settings import resolve
from fdl.core.settings_file import dump, parse, read, read_layered

ROOT = Path(__file__).parents[2]
# Ten values, ten times as many, and so on: 10^9 on nine lines.
BOMB = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10", 10),
        ("-3", -3),
        ("+4", 4),
        ("0", 0),
        ("1e-3", 0.001),
        ("1E5", 1e5),
        ("1.0e-3", 0.001),
        (".5", 0.5),
        ("-2.", -2.0),
        (".inf", float("inf")),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("[0,1]", [0, 1]),
        ("{neu: 64}", {"neu": 64}),
        # What readers of YAML 1.1 and 1.2 take differently is text.
        ("010", "010"),
        ("007", "007"),
        ("0o17", "0o17"),
        ("0x1f", "0x1f"),
        ("0b11", "0b11"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("on", "on"),
        ("Off", "Off"),
        ("no", "no"),
        ("yes", "yes"),
        ("2024-01-01", "2024-01-01"),
        ("=", "="),
        ("'10'", "10"),
    ],
)
def test_a_value_is_what_it_looks_like(text: str, value: object) -> None:
    parsed = parse(text)
    assert (type(parsed), parsed) == (type(value), value)


@given(st.integers() | st.floats(allow_nan=False) | st.booleans() | st.none())
def test_numbers_as_json_writes_them_are_numbers(value: object) -> None:
    text = json.dumps(value).replace("Infinity", ".inf")
    assert parse(text) == value


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]))
TRAPS = st.sampled_from(["010", "1e-3", "1_000", "no", "null", "~", "", "true", "1:30", "<<", "=", ".inf", " a", "- a"])


@given(st.dictionaries(TRAPS | TEXT, TRAPS | TEXT | st.floats(allow_nan=False) | st.integers() | st.none()))
def test_what_is_written_is_read_back(values: dict[str, object]) -> None:
    assert parse(dump(values)) == values


@given(TRAPS)
def test_resolved_settings_mean_the_same_to_other_readers(text: str) -> None:
    assert yaml.safe_load(dump({"key": text})) == {"key": text}


def test_the_projects_settings_mean_the_same_to_other_readers() -> None:
    """Snakemake and DVC read this file, too."""
    assert read(ROOT / "params.yaml") == yaml.safe_load((ROOT / "params.yaml").read_text())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: 1\nseeds: [0]\nepochs: 5", "'epochs' appears twice, on lines 1 and 3"),
        ("overrides: {}\noverrides: {}", "'overrides' appears twice, on lines 1 and 2"),
        ("overrides:\n  epochs: 1\n  epochs: 1", "'epochs' appears twice, on lines 2 and 3"),
        ('epochs: 1\n"epochs": 2', "'epochs' appears twice, on lines 1 and 2"),
        ("grid:\n- {seeds: [0], seeds: [1]}", "'seeds' appears twice, on lines 2 and 2"),
        (BOMB, "line 5: more than 100,000 values"),
        ("a: &a [1, *a]", "line 1: an alias inside its own anchor"),
        ("a: !!int 010", "line 1: '010' is not a plain int"),
        ("a: [", "not valid YAML: line 1: "),
        ("a: !!python/name:os.system x", "not valid YAML: line 1: could not determine a constructor"),
        ("[" * 5000, "not valid YAML"),
        ("9" * 5000, "not valid YAML"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_lines(text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        parse(text)
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 300


def test_an_alias_and_a_merged_block_are_no_repetition() -> None:
    text = "a: &a {epochs: 1, seeds: [0]}\nb: {<<: *a, epochs: 2}\nc: *a"
    assert parse(text)["b"] == {"epochs": 2, "seeds": [0]}
    assert parse(text)["c"] == {"epochs": 1, "seeds": [0]}


def settings(tmp_path: Path, *assignments: str, overlay: str | None = None) -> dict[str, object]:
    """The demo's settings with overlays on them."""
    files = []
    if overlay is not None:
        (tmp_path / "mine.yaml").write_text(overlay)
        files.append(tmp_path / "mine.yaml")
    layered = read_layered(ROOT / "params.yaml", files, assignments, "--config")
    return resolve(layered.raw, overrides=layered.overrides, origins=layered.origins).model_dump()


def test_single_values_are_what_a_person_means(tmp_path: Path) -> None:
    resolved = settings(
        tmp_path,
        *"seeds=[0,1] shots=[3] keep_weights=true epochs=null learning_rate=1e-3 data_dir=007".split(),
    )
    wanted = {"seeds": [0, 1], "shots": [3], "keep_weights": True, "epochs": None, "learning_rate": 0.001}
    assert {key: resolved[key] for key in wanted} == wanted
    assert resolved["data_dir"] == "007"
    assert settings(tmp_path, "image_size={neu: 64}")["image_size"] == {"neu": 64}
    assert settings(tmp_path, "data_dir='7'")["data_dir"] == "7"


def test_a_value_that_is_the_files_default_is_not_hidden_by_the_preset(tmp_path: Path) -> None:
    """The file says `epochs: null`, its preset demo 6."""
    assert settings(tmp_path)["epochs"] == 6
    assert settings(tmp_path, "epochs=null")["epochs"] is None
    assert settings(tmp_path, overlay="epochs: null")["epochs"] is None
    assert settings(tmp_path, overlay="overrides: {epochs: null}")["epochs"] is None


def test_later_wins_and_mappings_are_merged(tmp_path: Path) -> None:
    overlay = "method_params: {cka: {strength: 0.5}}\noverrides: {epochs: 3, seeds: [4]}\npreset: lite"
    resolved = settings(tmp_path, "epochs=7", "method_params={smd: {strength: 2}}", overlay=overlay)
    assert resolved["method_params"] == {"cka": {"strength": 0.5}, "smd": {"strength": 2}}
    assert (resolved["preset"], resolved["epochs"], resolved["seeds"]) == ("lite", 7, [4])


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("seeds=[0,x]", "--config seeds=[0,x]: seeds.1: 'x' is not allowed"),
        ("epoch=3", "--config epoch=3: unknown key 'epoch'; did you mean 'epochs'?"),
        ("seeds=[1,1]", "--config seeds=[1,1]: seeds: [1, 1] names a value twice"),
        ("preset=liet", "--config preset=liet: preset: unknown 'liet'; did you mean"),
        ("overrides={epochs: x}", "--config overrides={epochs: x}: epochs: 'x' is not allowed"),
        ("data_dir=7", "or on a command line \"data_dir='7'\""),
        ("grid=[{seeds: [0], seeds: [1]}]", "'seeds' appears twice"),
        ("seeds=[", "--config seeds=[: not valid YAML"),
        ("seeds", "--config seeds: write it as KEY=VALUE"),
    ],
)
def test_a_message_says_where_the_value_came_from(tmp_path: Path, assignment: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        settings(tmp_path, assignment)
    assert message in str(error.value)


def test_a_message_names_the_file_that_was_laid_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^mine\.yaml: epochs: 'x' is not allowed"):
        settings(tmp_path, overlay="overrides: {epochs: x}")

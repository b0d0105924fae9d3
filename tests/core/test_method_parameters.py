"""Parameters of methods: the cell's weights, the default strengths, what the settings say."""

import pytest

from fdl.core.errors import InputError
from fdl.core.method_sources import registered
from fdl.core.settings import Cell
from tests.projects import tiny

OWN = """
def pull(maps, logits, inputs, labels, *, epoch, cosine_weight, strength, power=2):
    return maps[0].mean()
"""

STRENGTHS = {name: entry.strength for name, entry in registered().items() if entry.strength is not None}


def params_of(method, **overrides):
    params = tiny(methods=[method], **overrides)
    [cell, *_] = params.cells()
    return params.training_settings(cell)["method_params"]


def digest_of(method, **overrides):
    return tiny(methods=["classical", method], **overrides).settings_digest(Cell("bsd", "alexnet", 3, method, 0))


def test_a_method_gets_what_it_asks_for():
    """BSD, AlexNet: 0.5 and 0.05 are the authors'."""
    assert params_of("classical") == {}
    assert params_of("fdl") == {"cosine_weight": 0.5, "gaussian_weight": 0.05}
    assert params_of("fdl-cosine") == {"cosine_weight": 0.5}
    assert params_of("fdl-gaussian", gaussian_weight=2.0) == {"gaussian_weight": 2.0}
    for method, strength in STRENGTHS.items():
        assert params_of(method) == {"strength": strength}
    assert params_of("cka", method_params={"cka": {"strength": 0.3}, "gncl": {"strength": 0.9}}) == {"strength": 0.3}


def test_an_own_method_gets_the_weights_and_its_values(project):
    (project / "own.py").write_text(OWN)
    given = {"own:pull": {"strength": 2}}
    assert params_of("own:pull", method_params=given) == {"cosine_weight": 0.5, "strength": 2.0}
    given["own:pull"] |= {"power": 3, "cosine_weight": 1}
    assert params_of("own.pull", method_params=given) == {"cosine_weight": 1.0, "strength": 2.0, "power": 3.0}


def test_values_train_their_own_method_again_and_no_other():
    before = {method: digest_of(method) for method in ("fdl", "cka", "gncl")}
    given = {"method_params": {"cka": {"strength": 0.3}}}
    after = {method: digest_of(method, **given) for method in before}
    assert {method for method in before if before[method] != after[method]} == {"cka"}
    assert digest_of("cka", method_params={}) == before["cka"]
    assert digest_of("cka", method_params={"cka": {"strength": STRENGTHS["cka"]}}) == before["cka"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"methods": ["own:pull"]},
            "method_params: own.pull needs a value for 'strength': {own.pull: {strength: ...}}",
        ),
        ({"method_params": {"cka": {"x": 1.0}}}, "method_params: cka takes no parameter 'x'; it takes: strength"),
        ({"method_params": {"classical": {"x": 1.0}}}, "classical takes no parameter 'x'; it takes: none"),
        ({"method_params": {"cca": {}}}, "methods: unknown 'cca'; did you mean 'cka'?"),
        ({"method_params": {"cka": {"strength": float("nan")}}}, "method_params: nan is not allowed"),
        ({"methods": ["own:pull", "own.pull"]}, "names a value twice"),
        ({"methods": ["own:pull; rm"]}, "methods.0: 'own:pull; rm' is not allowed"),
        ({"methods": ["../own:pull"]}, "methods.0: '../own:pull' is not allowed"),
        ({"grid": [{"methods": ["own:pulls"]}]}, "own.py has no function 'pulls'; did you mean 'pull'?"),
    ],
)
def test_wrong_values_are_refused_in_one_line(project, overrides, message):
    (project / "own.py").write_text(OWN)
    with pytest.raises(InputError) as error:
        tiny(**overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_resolved_settings_of_an_own_method_are_read_back(project):
    from fdl.core.settings import load

    (project / "own.py").write_text(OWN)
    params = tiny(methods=["own:pull"], method_params={"own:pull": {"strength": 1.0}})
    assert {cell.key for cell in params.cells()} == {f"bsd/alexnet/3shot/own.pull/seed{seed}" for seed in (0, 1)}
    assert load(params.write(project / "results")) == params

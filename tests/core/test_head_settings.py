"""What a cell's heads are trained with: the settings' values, else the authors'; the digest that belongs to them."""

import pytest

from fdl.core.head_settings import HeadSettings, head_settings
from fdl.core.settings import Cell, load
from tests.projects import ROOT


def heads_of(dataset: str, preset: str = "paper", *, method: str = "fdl", **overrides: object) -> HeadSettings | None:
    params = load(ROOT / "params.yaml", preset=preset, overrides=overrides)
    return head_settings(params, Cell(dataset, "vgg", 3, method, 0))


@pytest.mark.parametrize(("width", "fusion", "stacking"), [(1, 512, 128), (0.25, 128, 32), (0.001, 1, 1)])
def test_hidden_units_are_scaled_as_the_channels_of_the_members(width: float, fusion: int, stacking: int) -> None:
    heads = heads_of("cifar100", width=width, heads=["fusion", "stacking"])
    assert heads is not None
    assert heads.units == {"fusion": fusion, "stacking": stacking}


def test_a_single_net_has_no_heads_and_two_have() -> None:
    assert heads_of("neu", method="wide") is None
    assert heads_of("neu", members=2) is not None
    assert heads_of("neu", heads=[]) is None


def test_what_the_settings_say_takes_the_place_of_what_the_authors_used() -> None:
    heads = heads_of(
        *("cifar10", "authors"), head_epochs=7, tuning_epochs=0, head_learning_rate=0.25, head_augment=True
    )
    assert heads is not None
    assert (heads.epochs, heads.tuning_epochs, heads.augment) == (7, 0, True)
    assert heads.learning_rates == {"fusion": 0.25, "stacking": 0.25}


def test_heads_that_were_trained_stay_current() -> None:
    """Their digests change with `HEADS_VERSION`, which is raised when the numbers of a head change, and only then."""
    for preset, expected in {"demo": "92565c5fac055109", "paper": "7c22bf06b247c831"}.items():
        heads = heads_of("cifar10", preset)
        assert heads is not None
        assert heads.digest[:16] == expected

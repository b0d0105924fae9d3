"""The move of modules into rooms changes no digest: the values are those from before it."""

import hashlib

import pytest

from fdl.core.method_sources import method_source
from fdl.core.settings import digest, load
from fdl.methods.registry import METHODS
from fdl.results.digests import training_digest
from tests.projects import ROOT

PRESETS = {
    "demo": "7419550686f4c9f8",
    "small": "d216297818da5267",
    "small-cosine": "c19eaa6662914d62",
    "small-neu-weights": "a1869dfe9f9b2ee1",
    "small-heads": "1dc5e6848c7286e1",
    "lite": "71674c6a5369662e",
    "lite-selection": "325e359dfb6a22da",
    "lite-moving": "56cc77af16a4c9ab",
    "lite-float32": "ccde401b3dfc32fd",
    "lite-cosine": "18329297e3e8b5ea",
    "lite-neu-weights": "333549146ca8332c",
    "authors": "f097624814eae1e6",
    "paper": "cbbb934240ecb508",
}
METHOD_DIGESTS = "ad032998211142d7"


@pytest.mark.parametrize("preset", PRESETS)
def test_the_digests_of_all_cells_of_a_preset(preset):
    params = load(ROOT / "params.yaml", preset=preset)
    digests = [
        [cell.key, params.settings_digest(cell), training_digest(params, cell, "split", "images")]
        for cell in params.cells()
    ]
    assert digest(digests)[:16] == PRESETS[preset]


def test_the_digests_of_the_methods():
    digests = " ".join(f"{name} {method_source(name).digest}" for name in sorted(METHODS))
    assert hashlib.sha256(digests.encode()).hexdigest()[:16] == METHOD_DIGESTS

"""Digests of methods: prose changes nothing, a changed line changes one method."""

import pytest

from fdl import provenance
from fdl.methods import METHODS


@pytest.fixture
def edited(tmp_path, monkeypatch):
    """Digests as they would be if methods.py were edited so."""

    def digests(old="", new=""):
        text = provenance._METHODS.read_text()
        assert old in text
        copy = tmp_path / "methods.py"
        copy.write_text(text.replace(old, new))
        with monkeypatch.context() as patch:
            patch.setattr(provenance, "_METHODS", copy)
            provenance._method_functions.cache_clear()
            found = {name: provenance.method_digest(name) for name in provenance.method_names()}
        provenance._method_functions.cache_clear()
        return found

    return digests


def test_the_names_are_the_registry():
    assert provenance.method_names() == list(METHODS)


def test_prose_changes_no_digest(edited):
    assert edited("The feature distance loss of the paper.", "Another text.") == edited()


def test_a_changed_line_changes_its_own_method_only(edited):
    before, after = (
        edited(),
        edited("cosine_weight, gaussian_weight).total", "cosine_weight, 2 * gaussian_weight).total"),
    )
    assert before["fdl"] != after["fdl"]
    assert before["classical"] == after["classical"]


def test_a_record_says_what_made_it():
    block = provenance.provenance("cpu")
    assert block["versions"]["torch"]
    assert block["device"] == "cpu"
    assert set(block["git"] or {"commit": "", "dirty": False}) == {"commit", "dirty"}

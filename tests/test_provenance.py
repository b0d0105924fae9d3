"""The provenance block of a record."""

from fdl import provenance


def test_a_record_says_what_made_it():
    block = provenance.provenance("cpu")
    assert block["versions"]["torch"]
    assert block["device"] == "cpu"
    assert set(block["git"] or {"commit": "", "dirty": False}) == {"commit", "dirty"}

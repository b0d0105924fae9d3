"""The selection rules on validation results worked out by hand."""

from dataclasses import replace

import pytest
import torch

from fdl.training.selection import Selector
from fdl.training.state import Trained
from tests.training import cells


def selector(rules, **changes):
    """A selector for eight validation images, of which the first three are the small set."""
    settings = cells.settings(selections=rules, **changes)
    data = replace(cells.data(validation=8), small=torch.arange(3))
    return Selector(settings, data, Trained([], {}, {}))


def right(*counts, images=8):
    """(M, images) booleans: member m classifies the last `counts[m]` images correctly."""
    return torch.stack([torch.arange(images) >= images - count for count in counts])


def chosen(rule, epochs, **changes):
    """The selected epoch of each member, and the kept states."""
    chooser = selector([rule], epochs=len(epochs), **changes)
    for epoch, counts in enumerate(epochs):
        chooser.add(right(*counts), lambda member, epoch=epoch: {"place": torch.tensor([epoch, member])}, epoch)
    kept = [state["place"].tolist() for state in chooser.result.states[rule]]
    assert kept == [[epoch, member] for member, epoch in enumerate(chooser.result.selected[rule])]
    return chooser.result.selected[rule]


# Of five members: the sums over all of them, the first three, the first four and the first two.
OF_FIVE = [[1, 1, 1, 2, 2],  # 7, 3, 5, 2
           [0, 0, 5, 1, 0],  # 6, 5, 6, 0
           [2, 2, 0, 2, 0],  # 6, 4, 6, 4
           [1, 1, 1, 4, 0]]  # 7, 3, 7, 2  # fmt: skip


def test_sum_counts_all_members_and_sum3_the_first_three():
    assert chosen("sum", OF_FIVE) == [0] * 5
    assert chosen("sum3", OF_FIVE) == [1] * 5
    # Of the first four the fourth epoch would be the best, of the first two the third.
    assert chosen("sum", [counts[:4] for counts in OF_FIVE]) == [3] * 4
    assert chosen("sum", [counts[:2] for counts in OF_FIVE]) == [2] * 2


def test_own_counts_each_member_alone():
    assert chosen("own", OF_FIVE) == [2, 2, 1, 3, 0]


def test_the_first_of_equal_epochs_counts_even_if_nothing_is_right():
    assert chosen("sum", [[0, 0], [0, 0]]) == [0, 0]
    assert chosen("sum", [[1, 1], [2, 0], [0, 3], [3, 0]]) == [2, 2]
    assert chosen("own", [[0, 1], [0, 1]]) == [0, 0]


def test_last_is_the_last_epoch_however_bad():
    assert chosen("last", [[8, 8], [1, 1], [0, 0]]) == [2, 2]


def test_the_small_rule_looks_at_its_own_images():
    # Five right are the last five, none of them in the small set; eight right are all images.
    assert chosen("sum", [[5, 5], [8, 1]]) == [0, 0]
    assert chosen("sum-small", [[5, 5], [8, 1]]) == [1, 1]


@pytest.mark.parametrize("rule", ["sum", "sum3", "sum-small"])
def test_members_with_their_own_batches_are_not_added_up(rule):
    assert chosen(rule, [[8, 0, 0], [0, 8, 6]], own_batches=True) == [0, 1, 1]


def test_the_history_has_the_share_that_each_member_gets_right():
    chooser = selector(["last"], epochs=4)
    assert chooser.add(right(2, 8), lambda member: {}, 1) == {"validation_accuracy_0": 0.25, "validation_accuracy_1": 1}
    assert chooser.result.validated == [1]
    assert torch.equal(chooser.result.validation_correct[0], right(2, 8))
    assert chooser.result.selected["last"] == [-1, -1]  # of four epochs the last is to come

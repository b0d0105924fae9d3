"""The controls: trainings without a diversity loss that a gain of the distance loss must also beat.

A gain over five nets that share batches and an untuned rate may come from what the baseline lacks, not
from the loss. Each control has the loss of `classical`, the same k-shot images and one thing of its own;
nothing here imports torch.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Control:
    """How a control is trained, where that differs from `classical`."""

    own_batches: bool = False  # every member has its own batch order and augmentation, and its own best epoch
    one_net: bool = False  # one net of about the cost of all: all channel and unit counts times √members
    rate_factors: tuple[float, ...] = ()  # candidates for the learning rate, as parts of the cell's own
    remark: str = ""  # printed below tables


CONTROLS: dict[str, Control] = {
    # A deep ensemble (Lakshminarayanan et al. 1612.01474): independent nets, their probabilities averaged.
    # Members start from the weights of `classical`; the rules sum, sum3 and sum-small count each member's own
    # validation images, as nets trained one by one would be selected.
    "deep-ensemble": Control(
        own_batches=True, remark="every member with its own batch order, augmentation and best epoch"
    ),
    # Convolutions and dense layers between scaled widths cost its square: √M wide is M times the
    # multiplications, but for the three channels of the images and the class outputs, which do not grow.
    "wide": Control(one_net=True, remark="a single net of about the cost of the ensemble, whose votes are its own"),
    # An untuned baseline can fake a gain (Brigato et al. 2108.13122). Three rates half a decade apart: the
    # authors' own rates are 1e-4 and 1e-3, so that one of them is always near what they tried.
    "tuned": Control(
        rate_factors=(1 / 3, 1.0, 3.0),
        remark="the learning rate chosen on validation: a third of the usual one, the usual one, or three times that",
    ),
}

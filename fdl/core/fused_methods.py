"""What a fused program (`fdl.training.fused`) may compute in place of a method's function; without importing torch.

A fused program trains several runs at once and computes the two terms of the distance loss for all of them together,
which is only faster if it does not call each run's function. A method says here that its function is nothing but these
terms, weighted by its parameters. The declaration holds for one text of the function, that of the digest: a function
that was edited since is called itself, in the loop, as is every method without a declaration.
"""

from dataclasses import dataclass

from fdl.core.method_sources import method_source

# The widest nets of which a CPU trains the runs of a seed as one program; wider ones keep it busy one by one.
NARROW = 0.5


@dataclass(frozen=True)
class DistanceTerms:
    """A method that adds weighted terms of `fdl.methods.losses.feature_distance`, and nothing else."""

    digest: str  # of the function that this was written for, as `method_source` gives it
    cosine: str | None = None  # the parameter that is the weight of the cosine term; None: it is left out
    gaussian: str | None = None  # the same of the Gaussian term


DECLARED = {
    "classical": DistanceTerms("9ef6d47d6d7fac92"),
    "fdl": DistanceTerms("f88aa08321b88543", "cosine_weight", "gaussian_weight"),
    "fdl-cosine": DistanceTerms("e1270a4d1dcac794", cosine="cosine_weight"),
    "fdl-gaussian": DistanceTerms("ee22940003a3bad8", gaussian="gaussian_weight"),
}


def distance_terms(method: str) -> DistanceTerms | None:
    """A method's declaration; None where there is none, or its function was edited since."""
    declared = DECLARED.get(method)
    return declared if declared and declared.digest == method_source(method).digest else None

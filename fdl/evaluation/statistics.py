"""The statistics of the claims: estimates, intervals and verdicts as docs/claims.md fixed them before the runs.

Datasets, backbones and shots are the benchmark: fixed. What varies is the seed (drawn images, weights,
order) and the test images. The arrays here know nothing of files.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
# (observations (n, q), weights (n,)) → value
Statistic = Callable[[Array, Array], float]

LEVEL = 0.95  # of the printed intervals
ALPHA = 0.05  # of a difference, two-sided, and of equivalence: a 90 % interval inside the margin
MARGIN = 2.0  # percentage points; less is no difference that matters
_ROUNDING = 1e-9  # what the difference of two shares may be off by, far less than an image
_MOST_SEEDS = 1000  # beyond these, more seeds are no plan


def t_quantile(p: float, df: ArrayLike) -> Array:
    """Quantile of Student's t; as `scipy.stats.t.ppf`, whose module takes seconds to import."""
    from scipy.special import stdtrit

    return np.asarray(stdtrit(df, p))


def t_interval(mean: float | None, std: float | None, n: int) -> tuple[float, float] | None:
    """The 95 % t interval of the mean of n independent values.

    None where they tell nothing of their spread: fewer than two, or all equal. Two seeds whose differences are the
    same number of test images are no certainty.
    """
    if mean is None or std is None or std < _ROUNDING:
        return None
    half = float(t_quantile((1 + LEVEL) / 2, n - 1)) * std / sqrt(n)
    return mean - half, mean + half


def _t_tail(distance: ArrayLike, df: ArrayLike) -> Array:
    """Probability beyond a distance; as `scipy.stats.t.sf`."""
    from scipy.special import stdtr

    return np.asarray(stdtr(df, -np.asarray(distance)))


@dataclass(frozen=True)
class Estimate:
    """An estimate with its t distribution; the four arrays have one shape, () for a single estimate.

    NaN stands for what the seeds cannot tell, such as the variance where there is one seed.
    """

    value: Array
    variance: Array
    df: Array
    image_variance: Array  # the part of the variance that more seeds do not reduce

    def interval(self, level: float = LEVEL) -> tuple[Array, Array]:
        """Lower and upper bound."""
        half = t_quantile((1 + level) / 2, self.df) * np.sqrt(self.variance)
        return self.value - half, self.value + half

    def p_difference(self) -> Array:
        """Two-sided p value of no difference: below 0.05 where the 95 % interval excludes 0."""
        return np.asarray(2 * _t_tail(np.abs(self._standardised(self.value)), self.df))

    def p_equivalence(self) -> Array:
        """The larger p value of two one-sided tests: below 0.05 where the 90 % interval is inside ± `MARGIN`."""
        return np.asarray(_t_tail(self._standardised(MARGIN - np.abs(self.value)), self.df))

    def seeds_for_equivalence(self, seeds: int) -> int | None:
        """Seeds per dataset at which a 90 % interval around 0 would lie inside ± `MARGIN`.

        The spread over seeds and the test images are taken to stay what they are with the present `seeds`.

        Returns:
            None where 1,000 seeds would not do, or one seed tells nothing of the spread.
        """
        if seeds < 2:
            return None
        n = np.arange(2, _MOST_SEEDS + 1)
        variance = (self.variance - self.image_variance) * seeds / n + self.image_variance
        half = t_quantile(1 - ALPHA, self.df * (n - 1) / (seeds - 1)) * np.sqrt(variance)
        enough = n[half < MARGIN]
        return int(enough[0]) if len(enough) else None

    def _standardised(self, distance: Array) -> Array:
        # Without any variance, 0 is 0 standard errors from 0 and all else infinitely many.
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = distance / np.sqrt(self.variance)
        return np.where((distance == 0) & (self.variance == 0), 0.0, ratio)


def clustered_mean(
    differences: Sequence[Array], *, weights: Sequence[Array] | None = None, floored: bool = False
) -> Estimate:
    """Mean over all cells, its variance clustered two ways: by (dataset, seed), and by test image of a dataset.

    All backbones and shots of a dataset's seed are one cluster: they share the drawn images. The variance is
    V_seeds + V_images − V_residual, never below the larger of the first two, with the residual that of the
    two-way table seed × image; so none of the three holds a part of the fixed differences between cells.
    Degrees of freedom by Satterthwaite from the datasets' parts of V_seeds, seeds − 1 each.

    Args:
        differences: one array per dataset, (..., groups, seeds, images), a group being a backbone with a number
            of shots; NaN in all images of a pair that is missing. Leading axes are repetitions. With a single image,
            the value of a whole cell, the test images are held fixed.
        weights: of the groups, one array (..., groups) per dataset, as `slope_weights` gives them: the estimate is
            then the sum of the groups' means by these; None: the mean over all pairs.
        floored: rules 2: V_seeds of a dataset is not taken below what it would be if its cells were independent.
            A few seeds whose cells happen to cancel out look more certain than they are.
    """
    pairs = sum(_found(array).sum((-1, -2)) for array in differences)  # (...)
    values, by_seeds, by_images, residual, freedom = [], [], [], [], []
    for number, array in enumerate(differences):
        present = _found(array)[..., None]  # (..., G, S, 1)
        images = array.shape[-1]
        counts = present.sum((-1, -2))  # (..., G)
        weight = counts / np.asarray(pairs)[..., None] if weights is None else weights[number]
        share = (weight / np.maximum(counts, 1))[..., None, None]  # of each pair
        known = np.where(present, array, 0)
        group_mean = known.sum((-1, -2)) / (np.maximum(counts, 1) * images)  # (..., G)
        values.append((group_mean * np.where(counts > 0, weight, 0)).sum(-1))
        deviations = np.where(present, array - group_mean[..., None, None], 0) * share / images  # (..., G, S, N)
        deviation = deviations.sum(-3)  # (..., S, N)
        seeds = present.any((-3, -1)).sum(-1)
        df = _or_nan(seeds - 1)
        of_seed, of_image = deviation.sum(-1), deviation.sum(-2)  # (..., S), (..., N)
        part = seeds / df * (of_seed**2).sum(-1)
        by_seeds.append(np.maximum(part, _independent(deviations.sum(-1), counts)) if floored else part)
        freedom.append(df)
        if images == 1:
            by_images.append(np.zeros_like(part))
            residual.append(np.zeros_like(part))
            continue
        # A seed of which the dataset has no pair at all is no row of the table.
        rows = present.any(-3)
        independent = of_seed[..., None] / images + of_image[..., None, :] / np.maximum(seeds, 1)[..., None, None]
        rest = np.where(rows, deviation - independent, 0)
        by_images.append(images / (images - 1) * (of_image**2).sum(-1))
        residual.append(seeds * images / (df * (images - 1)) * (rest**2).sum((-1, -2)))
    v_seeds, v_images, v_residual = np.sum(by_seeds, 0), np.sum(by_images, 0), np.sum(residual, 0)
    variance = np.maximum(np.maximum(v_seeds, v_images), v_seeds + v_images - v_residual)
    image_variance = np.clip(v_images - v_residual, 0, variance)
    return Estimate(np.sum(values, 0), variance, _satterthwaite(by_seeds, freedom), image_variance)


def _independent(deviations: Array, counts: Array) -> Array:
    """V_seeds of a dataset whose cells are independent: the sum of the variances of its groups' means.

    Args:
        deviations: (..., groups, seeds), what each pair adds to the estimate, around its group's mean.
        counts: (..., groups), pairs of each group; one alone tells nothing of its spread.
    """
    factor = np.where(counts > 1, counts / np.maximum(counts - 1, 1), 0)
    return np.asarray((factor * (deviations**2).sum(-1)).sum(-1))


def seed_spreads(differences: Array) -> tuple[float, float, float]:
    """How a dataset's pairs vary between seeds; standard deviations, NaN where a seed is alone.

    Args:
        differences: (groups, seeds, images), as in `clustered_mean`, without missing pairs.

    Returns:
        Of a pair within its group; of the seeds' means over all groups; and what the latter would be if the cells
        were independent.
    """
    cells = differences.mean(-1)
    if cells.shape[1] < 2:
        return np.nan, np.nan, np.nan
    variances = cells.var(axis=1, ddof=1)
    independent = np.sqrt(variances.sum()) / len(cells)
    return float(np.sqrt(variances.mean())), float(cells.mean(0).std(ddof=1)), float(independent)


def slope_weights(lines: Sequence[Array], x: Sequence[Array], pairs: Sequence[Array]) -> list[Array]:
    """Weights of groups that give the slope of parallel lines by least squares, each line with its own intercept.

    The slope is a sum of the groups' means, so `clustered_mean` knows its variance, the test images' too.

    Args:
        lines: per dataset (groups,): which line, here a backbone, a group belongs to.
        x: per dataset (groups,).
        pairs: per dataset (..., groups): how many pairs a group has; 0 leaves it out.

    Returns:
        Per dataset (..., groups); NaN where no line has two places.
    """
    centred, along = [], []
    for names, places, counts in zip(lines, x, pairs, strict=True):
        middle = np.zeros(np.shape(counts))
        for name in np.unique(names):
            here = (names == name) * counts  # (..., G)
            mean = (here * places).sum(-1) / np.maximum(here.sum(-1), 1)
            middle = np.where(names == name, mean[..., None], middle)
        centred.append(counts * (places - middle))
        along.append((counts * (places - middle) ** 2).sum(-1))
    total = np.sum(along, 0)
    total = np.where(total > 1e-12, total, np.nan)
    return [each / total[..., None] for each in centred]


@dataclass(frozen=True)
class Bounded:
    """An estimate of which only bounds are known: what is not defined may be anything.

    It answers the same questions as an `Estimate`, each for the worst case.
    """

    lowest: Estimate
    highest: Estimate

    @property
    def value(self) -> Array:
        """The middle of the bounds."""
        return np.asarray((self.lowest.value + self.highest.value) / 2)

    @property
    def df(self) -> Array:
        """The fewer degrees of freedom of both."""
        return np.minimum(self.lowest.df, self.highest.df)

    def interval(self, level: float = LEVEL) -> tuple[Array, Array]:
        """The interval from the lower bound of the lowest to the upper bound of the highest."""
        return self.lowest.interval(level)[0], self.highest.interval(level)[1]

    def p_difference(self) -> Array:
        """The larger p value of the bounds, if both are on the same side of 0; else 1."""
        larger = np.maximum(self.lowest.p_difference(), self.highest.p_difference())
        return np.where(self.lowest.value * self.highest.value > 0, larger, 1.0)

    def p_equivalence(self) -> Array:
        """The larger p value of both."""
        return np.maximum(self.lowest.p_equivalence(), self.highest.p_equivalence())

    def seeds_for_equivalence(self, seeds: int) -> int | None:
        """Not known: more seeds do not make the bounds narrower."""
        return None


def jackknife(statistic: Statistic, observations: Array, datasets: ArrayLike, seeds: ArrayLike) -> Estimate:
    """A statistic that is not a mean, its variance by leaving out one seed of one dataset at a time.

    The dataset's other seeds take over the weight of the one left out, so that every dataset keeps its share.
    Test images are held fixed. Degrees of freedom as in `clustered_mean`.

    Args:
        statistic: of observations and their weights.
        observations: (n, q), one row per cell pair.
        datasets: (n,) labels.
        seeds: (n,) labels.
    """
    datasets, seeds = np.asarray(datasets), np.asarray(seeds)
    weights = np.ones(len(observations))
    parts, freedom = [], []
    for dataset in np.unique(datasets):
        here = datasets == dataset
        labels = np.unique(seeds[here])
        n = len(labels)
        without = []
        for seed in labels if n > 1 else []:
            others = np.where(here, np.where(seeds == seed, 0, n / (n - 1)), weights)
            without.append(statistic(observations, others))
        parts.append(
            np.asarray((n - 1) / n * np.sum((np.array(without) - np.mean(without)) ** 2) if without else np.nan)
        )
        freedom.append(_or_nan(n - 1))
    variance = np.sum(parts, 0)
    value = statistic(observations, weights)
    return Estimate(np.array(value), np.asarray(variance), _satterthwaite(parts, freedom), np.zeros(()))


def weighted_mean(observations: Array, weights: Array) -> float:
    """Mean of the only column."""
    return float(np.average(observations[:, 0], weights=weights))


def common_slope(observations: Array, weights: Array) -> float:
    """Slope of parallel lines by least squares, each with its own intercept; NaN where no line has two places.

    Without it, a dataset of which only the large numbers of shots are above the floor would bend the slope.

    Args:
        observations: columns line, x, y.
        weights: (n,).
    """
    across = along = 0.0
    for line in np.unique(observations[:, 0]):
        here = (observations[:, 0] == line) & (weights > 0)
        if not here.any():
            continue
        x, y, weight = observations[here, 1], observations[here, 2], weights[here]
        centred = x - np.average(x, weights=weight)
        across += np.sum(weight * centred * y)
        along += np.sum(weight * centred**2)
    return float(across / along) if along > 1e-12 else np.nan


def intercept(observations: Array, weights: Array) -> float:
    """Value of the least-squares line of y over x at x = 0; NaN where all x are the same.

    Args:
        observations: columns x, y.
        weights: (n,).
    """
    x, y = observations.T
    middle = np.average(x, weights=weights)
    along = np.sum(weights * (x - middle) ** 2)
    if along <= 1e-12:
        return np.nan
    return float(np.average(y, weights=weights) - middle * np.sum(weights * (x - middle) * y) / along)


def holm(p: ArrayLike) -> Array:
    """P values of a family, adjusted by Holm's method; NaN counts as a member that shows nothing."""
    raw = np.nan_to_num(np.array(p, dtype=float), nan=1.0)
    order = np.argsort(raw, kind="stable")
    stepped = np.maximum.accumulate(raw[order] * (len(raw) - np.arange(len(raw))))
    adjusted = np.ones(len(raw))
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def verdict(value: ArrayLike, p_difference: ArrayLike, p_equivalence: ArrayLike) -> NDArray[np.str_]:
    """The word for each estimate, with values above 0 in favour of the claim.

    Args:
        value: estimates.
        p_difference: of no difference, adjusted where they are a family.
        p_equivalence: the same of a difference beyond the margin; NaN where the claim has no margin.
    """
    value, differs = np.asarray(value), np.asarray(p_difference) < ALPHA
    small = np.asarray(p_equivalence) < ALPHA
    below = f", below {MARGIN:g} points"
    cases = [differs & (value > 0) & small, differs & (value > 0), differs & (value < 0) & small, differs & (value < 0)]
    words = ["supported" + below, "supported", "contradicted" + below, "contradicted"]
    return np.select([*cases, small], [*words, "equivalent"], "undecided")


def _found(array: Array) -> NDArray[np.bool_]:
    return ~np.isnan(array[..., 0])


def _or_nan(df: ArrayLike) -> Array:
    """Degrees of freedom; NaN where there are none."""
    return np.where(np.asarray(df) > 0, df, np.nan).astype(float)


def _satterthwaite(parts: Sequence[Array], freedom: Sequence[Array]) -> Array:
    """Degrees of freedom of a sum of independent variances; where all are 0 the smallest, the most careful."""
    squares = np.sum([np.square(part) / df for part, df in zip(parts, freedom, strict=True)], 0)
    total = np.square(np.sum(parts, 0))
    return np.asarray(np.where(total == 0, np.min(freedom, 0), total / np.where(squares == 0, 1, squares)))

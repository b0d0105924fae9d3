"""The statistics of the claims: estimates, intervals and verdicts by the rules that docs/claims.md fixed beforehand.

A cell is one trained ensemble: a dataset, a backbone, a number of shots (training images per class), a method and a
seed. A pair consists of the cells of two methods that agree in everything else, and its difference is the observation.
Datasets, backbones and shots are fixed effects. Seeds (which vary the drawn images, initial weights and batch order)
and test images are random. All functions take arrays; none reads files.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
# (observations (n, q), weights (n,)) → value
Statistic = Callable[[Array, Array], float]

LEVEL = 0.95  # confidence level of the printed intervals
ALPHA = 0.05  # significance level of a difference (two-sided) and of equivalence (the 90 % interval is in the margin)
MARGIN = 2.0  # percentage points; a smaller difference does not matter
_ROUNDING = 1e-9  # largest rounding error of the difference of two shares, far less than one image contributes
_MOST_SEEDS = 1000  # nobody would train more


def t_quantile(p: float, df: ArrayLike) -> Array:
    """Quantile of Student's t; the same as `scipy.stats.t.ppf`, whose module takes seconds to import."""
    from scipy.special import stdtrit

    return np.asarray(stdtrit(df, p))


def t_interval(mean: float | None, std: float | None, n: int) -> tuple[float, float] | None:
    """The 95 % t interval of the mean of n independent values.

    Returns:
        Lower and upper bound. None if the spread is unknown: there are fewer than two values, or all are equal. Two
        seeds can have the same difference by chance, because differences are whole numbers of test images.
    """
    if mean is None or std is None or std < _ROUNDING:
        return None
    half = float(t_quantile((1 + LEVEL) / 2, n - 1)) * std / sqrt(n)
    return mean - half, mean + half


def _t_tail(distance: ArrayLike, df: ArrayLike) -> Array:
    """Probability that Student's t exceeds the distance; the same as `scipy.stats.t.sf`."""
    from scipy.special import stdtr

    return np.asarray(stdtr(df, -np.asarray(distance)))


@dataclass(frozen=True)
class Estimate:
    """An estimate with its t distribution; all four arrays have the same shape, () for a single estimate.

    NaN stands for what cannot be estimated from the seeds, such as the variance from a single seed.
    """

    value: Array
    variance: Array
    df: Array
    image_variance: Array  # the part of the variance that more seeds do not reduce

    def interval(self, level: float = LEVEL) -> tuple[Array, Array]:
        """Lower and upper bound of the t interval."""
        half = t_quantile((1 + level) / 2, self.df) * np.sqrt(self.variance)
        return self.value - half, self.value + half

    def p_difference(self) -> Array:
        """Two-sided p value of the hypothesis of no difference: below 0.05 if the 95 % interval excludes 0."""
        return np.asarray(2 * _t_tail(np.abs(self._standardised(self.value)), self.df))

    def p_equivalence(self) -> Array:
        """The larger p value of two one-sided tests: below 0.05 if the 90 % interval lies within ± `MARGIN`."""
        return np.asarray(_t_tail(self._standardised(MARGIN - np.abs(self.value)), self.df))

    def seeds_for_equivalence(self, seeds: int) -> int | None:
        """Smallest number of seeds per dataset for which a 90 % interval around 0 would lie within ± `MARGIN`.

        It is assumed that the spread between seeds and the test images stay the same.

        Args:
            seeds: the present number of seeds per dataset.

        Returns:
            None if 1,000 seeds would not suffice, or if there is only one seed, so that the spread is unknown.
        """
        if seeds < 2:
            return None
        n = np.arange(2, _MOST_SEEDS + 1)
        variance = (self.variance - self.image_variance) * seeds / n + self.image_variance
        half = t_quantile(1 - ALPHA, self.df * (n - 1) / (seeds - 1)) * np.sqrt(variance)
        enough = n[half < MARGIN]
        return int(enough[0]) if len(enough) else None

    def _standardised(self, distance: Array) -> Array:
        # If the variance is 0, a distance of 0 is 0 standard errors, and any other is infinitely many.
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = distance / np.sqrt(self.variance)
        return np.where((distance == 0) & (self.variance == 0), 0.0, ratio)


def clustered_mean(
    differences: Sequence[Array], *, weights: Sequence[Array] | None = None, floored: bool = False
) -> Estimate:
    """Mean over all pairs, with a variance clustered two ways: by (dataset, seed), and by test image within a dataset.

    All backbones and shots of a dataset with the same seed are one cluster, because they share the drawn images. The
    variance is V_seeds + V_images − V_residual, but never smaller than the larger of the first two. V_residual is the
    variance of the two-way table seed × image. All three are computed from deviations from the mean of a group, so that
    none includes the fixed differences between groups. The degrees of freedom are Satterthwaite's, from the datasets'
    contributions to V_seeds with seeds − 1 each.

    Args:
        differences: one array per dataset, (..., groups, seeds, images), where a group is a backbone with a number of
            shots. A missing pair is NaN in all images. Leading axes are repetitions. If there is a single "image",
            namely the value of the whole pair, the test images are held fixed.
        weights: one array (..., groups) per dataset, as `slope_weights` returns them: the estimate is then the sum of
            the groups' means with these weights. None: the mean over all pairs.
        floored: as rules 2 ask, never take V_seeds of a dataset to be smaller than if its cells were independent. With
            few seeds, the cells of a seed can cancel out by chance, and the estimate looks too certain.
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
        # A seed without any pair in this dataset is not a row of the table.
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
    """V_seeds of a dataset if its cells were independent: the sum of the variances of its groups' contributions.

    Args:
        deviations: (..., groups, seeds), each pair's contribution to the estimate, as deviation from its group's mean.
        counts: (..., groups), numbers of pairs. The spread of a group with a single pair is unknown and counts as 0.

    Returns:
        (...).
    """
    factor = np.where(counts > 1, counts / np.maximum(counts - 1, 1), 0)
    return np.asarray((factor * (deviations**2).sum(-1)).sum(-1))


def seed_spreads(differences: Array) -> tuple[float, float, float]:
    """Standard deviations that say how much a dataset's pairs vary between seeds; NaN if there is only one seed.

    Args:
        differences: (groups, seeds, images), as in `clustered_mean`, without missing pairs.

    Returns:
        The standard deviation of a pair within its group; that of the seeds' means over all groups; and what the latter
        would be if the cells were independent.
    """
    cells = differences.mean(-1)
    if cells.shape[1] < 2:
        return np.nan, np.nan, np.nan
    variances = cells.var(axis=1, ddof=1)
    independent = np.sqrt(variances.sum()) / len(cells)
    return float(np.sqrt(variances.mean())), float(cells.mean(0).std(ddof=1)), float(independent)


def slope_weights(lines: Sequence[Array], x: Sequence[Array], pairs: Sequence[Array]) -> list[Array]:
    """Weights of the groups' means whose weighted sum is the least-squares slope of parallel lines.

    Each line has its own intercept. Because the slope is a weighted sum of the groups' means, `clustered_mean` can
    compute its variance, including that due to the test images.

    Args:
        lines: per dataset (groups,): the line that a group belongs to, here its backbone.
        x: per dataset (groups,).
        pairs: per dataset (..., groups): the number of pairs of a group; 0 leaves it out.

    Returns:
        Per dataset (..., groups); NaN if no line has two different x.
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
    """An estimate of which only bounds are known, because some of the values it rests on are undefined.

    It has the methods of `Estimate`, and each of them answers for the worst case.
    """

    lowest: Estimate
    highest: Estimate

    @property
    def value(self) -> Array:
        """The middle of the bounds."""
        return np.asarray((self.lowest.value + self.highest.value) / 2)

    @property
    def df(self) -> Array:
        """The smaller of the two numbers of degrees of freedom."""
        return np.minimum(self.lowest.df, self.highest.df)

    def interval(self, level: float = LEVEL) -> tuple[Array, Array]:
        """From the lower end of the lowest estimate's interval to the upper end of the highest estimate's."""
        return self.lowest.interval(level)[0], self.highest.interval(level)[1]

    def p_difference(self) -> Array:
        """The larger p value of the two bounds if both are on the same side of 0, else 1."""
        larger = np.maximum(self.lowest.p_difference(), self.highest.p_difference())
        return np.where(self.lowest.value * self.highest.value > 0, larger, 1.0)

    def p_equivalence(self) -> Array:
        """The larger p value of the two bounds."""
        return np.maximum(self.lowest.p_equivalence(), self.highest.p_equivalence())

    def seeds_for_equivalence(self, seeds: int) -> int | None:
        """Always None, because more seeds do not bring the bounds closer together."""
        return None


def jackknife(statistic: Statistic, observations: Array, datasets: ArrayLike, seeds: ArrayLike) -> Estimate:
    """Any statistic, with the variance of a jackknife that leaves out one seed of one dataset at a time.

    The dataset's other seeds take over the weight of the one left out, so that every dataset keeps its total weight.
    Test images are held fixed. The degrees of freedom are computed as in `clustered_mean`.

    Args:
        statistic: function of the observations and their weights.
        observations: (n, q), one row per pair.
        datasets: (n,), the dataset of each row.
        seeds: (n,), the seed of each row.
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
    """Weighted mean of the observations (n, 1); the weights are (n,)."""
    return float(np.average(observations[:, 0], weights=weights))


def common_slope(observations: Array, weights: Array) -> float:
    """Least-squares slope of parallel lines, each with its own intercept; NaN if no line has two different x.

    With a single intercept, a dataset of which only the large numbers of shots are used, because the others are too
    close to chance, would distort the slope.

    Args:
        observations: (n, 3), with columns line, x, y.
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
    """Value at x = 0 of the least-squares line of y over x; NaN if all x are the same.

    Args:
        observations: (n, 2), with columns x, y.
        weights: (n,).
    """
    x, y = observations.T
    middle = np.average(x, weights=weights)
    along = np.sum(weights * (x - middle) ** 2)
    if along <= 1e-12:
        return np.nan
    return float(np.average(y, weights=weights) - middle * np.sum(weights * (x - middle) * y) / along)


def holm(p: ArrayLike) -> Array:
    """P values of a family, adjusted by Holm's method; NaN counts as 1 and as a member of the family."""
    raw = np.nan_to_num(np.array(p, dtype=float), nan=1.0)
    order = np.argsort(raw, kind="stable")
    stepped = np.maximum.accumulate(raw[order] * (len(raw) - np.arange(len(raw))))
    adjusted = np.ones(len(raw))
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def verdict(value: ArrayLike, p_difference: ArrayLike, p_equivalence: ArrayLike) -> NDArray[np.str_]:
    """The verdict on each estimate, as words; the arguments have the same shape.

    Args:
        value: estimates; values above 0 speak for the claim.
        p_difference: p values of the hypothesis of no difference, adjusted if the estimates are a family.
        p_equivalence: p values of the hypothesis of a difference beyond the margin, adjusted likewise; NaN if the claim
            has no margin.
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
    """The degrees of freedom, with NaN in place of 0."""
    return np.where(np.asarray(df) > 0, df, np.nan).astype(float)


def _satterthwaite(parts: Sequence[Array], freedom: Sequence[Array]) -> Array:
    """Satterthwaite's degrees of freedom of a sum of independent variances.

    If all variances are 0, it returns the smallest degrees of freedom, the most cautious choice.
    """
    squares = np.sum([np.square(part) / df for part, df in zip(parts, freedom, strict=True)], 0)
    total = np.square(np.sum(parts, 0))
    return np.asarray(np.where(total == 0, np.min(freedom, 0), total / np.where(squares == 0, 1, squares)))

"""The statistics of the claims: small cases by hand, slow re-statements, and how often verdicts are false."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t
from statsmodels.api import OLS
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.sandwich_covariance import cov_cluster_2groups

from fdl.evaluation.statistics import (
    Array,
    Bounded,
    Estimate,
    clustered_mean,
    common_slope,
    holm,
    intercept,
    jackknife,
    seed_spreads,
    slope_weights,
    t_interval,
    verdict,
    weighted_mean,
)

REPETITIONS = 2000
SEEDS = 5


def estimate(value: float, variance: float, df: float, image_variance: float = 0.0) -> Estimate:
    return Estimate(*(np.array(number) for number in (value, variance, df, image_variance)))


def drawn(rng: np.random.Generator, *shapes: tuple[int, int, int], missing: float = 0.0) -> list[Array]:
    """Differences of correctness in points, (groups, seeds, images) per dataset; every group keeps a pair."""
    arrays: list[Array] = [100.0 * rng.integers(-1, 2, size=shape).astype(np.float64) for shape in shapes]
    for array in arrays:
        gone = rng.random(array.shape[:2]) < missing
        gone[:, :2] = False
        array[gone] = np.nan
    return arrays


def restated(differences: Sequence[Array]) -> tuple[float, float, float]:
    """Mean, variance and degrees of freedom, pair by pair and image by image."""
    pairs = [
        (d, g, s)
        for d, array in enumerate(differences)
        for g, s in product(*map(range, array.shape[:2]))
        if not np.isnan(array[g, s, 0])
    ]
    mean = sum(differences[d][g, s].mean() for d, g, s in pairs) / len(pairs)
    v_seeds, v_images, v_residual, squares = 0.0, 0.0, 0.0, 0.0
    for d, array in enumerate(differences):
        images = array.shape[2]
        here = [(g, s) for dataset, g, s in pairs if dataset == d]
        seeds = sorted({s for _, s in here})
        centre = {g: np.mean([array[pair] for pair in here if pair[0] == g]) for g, _ in here}
        table = np.zeros((len(seeds), images))  # what each seed and image adds to the mean, over the groups
        for g, s in here:
            for i in range(images):
                table[seeds.index(s), i] += (array[g, s, i] - centre[g]) / (len(pairs) * images)
        n = len(seeds)
        of_dataset = n / (n - 1) * sum(table[s].sum() ** 2 for s in range(n))
        v_seeds += of_dataset
        squares += of_dataset**2 / (n - 1)
        v_images += images / (images - 1) * sum(table[:, i].sum() ** 2 for i in range(images))
        for s, i in product(range(n), range(images)):
            rest = table[s, i] - table[s].mean() - table[:, i].mean() + table.mean()
            v_residual += n * images / ((n - 1) * (images - 1)) * rest**2
    return mean, max(v_seeds + v_images - v_residual, v_seeds, v_images), v_seeds**2 / squares


def test_clustered_mean_of_a_case_by_hand() -> None:
    # One group, two seeds, two images: seed 0 gains on both, seed 1 on the first only. Mean 75 points; each entry
    # adds (25, 25, 25, −75) / 4 around it. Seeds add ±12.5: V = 2/1 · 2 · 12.5² = 625. So do the images.
    # The residual of the table is ±6.25 four times: 2·2/(1·1) · 4 · 6.25² = 625. V = 625 + 625 − 625.
    found = clustered_mean([np.array([[[100.0, 100.0], [100.0, 0.0]]])])
    assert [float(found.value), float(found.variance), float(found.df)] == pytest.approx([75, 625, 1])
    low, high = found.interval()
    assert high - low == pytest.approx(2 * 12.7062 * 25, rel=1e-5)  # t quantile of one degree of freedom


def test_images_that_all_seeds_share_do_not_average_out() -> None:
    # Every seed and group gains on the same one of four images: no spread over seeds, and still an uncertain mean.
    found = clustered_mean([np.tile([100.0, 0, 0, 0], (3, 5, 1))])
    assert float(found.variance) == pytest.approx(np.var([100, 0, 0, 0], ddof=1) / 4)
    assert float(found.df) == 4  # no part of V_seeds to weigh by


def test_fixed_differences_between_cells_are_no_variance() -> None:
    # Two datasets, two groups each, that gain differently, but in all seeds and images alike.
    gains = [np.broadcast_to(np.array(levels)[:, None, None], (2, 5, 6)) for levels in ([0.0, 100.0], [-100.0, 0.0])]
    assert float(clustered_mean(gains).variance) == pytest.approx(0, abs=1e-20)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.3]))
def test_clustered_mean_is_the_formula_stated_slowly(seed: int, missing: float) -> None:
    differences = drawn(np.random.default_rng(seed), (3, 4, 5), (2, 5, 7), (1, 3, 2), missing=missing)
    found = clustered_mean(differences)
    assert [float(x) for x in (found.value, found.variance, found.df)] == pytest.approx(restated(differences))


def test_repetitions_are_computed_each_on_its_own() -> None:
    rng = np.random.default_rng(5)
    many = [drawn(rng, (3, 5, 4), (2, 5, 9), missing=0.2) for _ in range(3)]
    together = clustered_mean([np.stack(arrays) for arrays in zip(*many, strict=True)])
    alone = [clustered_mean(arrays) for arrays in many]
    for name in ("value", "variance", "df", "image_variance"):
        assert getattr(together, name) == pytest.approx([float(getattr(each, name)) for each in alone])


@pytest.mark.parametrize("gain", [0, 40])
def test_clustered_mean_is_statsmodels_two_way_clustering(gain: int) -> None:
    rng = np.random.default_rng(8)
    (array,) = drawn(rng, (3, 5, 7))
    array += gain * rng.random((1, 5, 1)) + gain * rng.random((1, 1, 7))
    group, seed, image = (axis.flatten() for axis in np.indices(array.shape))
    # The first coefficient is the mean over the groups, the others their distances from it.
    design = np.column_stack([np.ones(array.size), *((group == g) * 1.0 - (group == 2) for g in (0, 1))])
    fit = OLS(array.flatten(), design).fit()
    _, by_seed, by_image = cov_cluster_2groups(fit, seed, image, use_correction=False)
    v_seeds, v_images = by_seed[0, 0] * 5 / 4, by_image[0, 0] * 7 / 6
    # What is left of the table seed × image, of the sums over the groups.
    sums = (fit.resid.reshape(array.shape).sum(0) / array.size).flatten()
    rows, columns = (axis.flatten() for axis in np.indices((5, 7)))
    dummies = np.column_stack([rows[:, None] == np.arange(5), columns[:, None] == np.arange(1, 7)]).astype(float)
    v_residual = OLS(sums, dummies).fit().ssr * 5 * 7 / (4 * 6)
    found = clustered_mean([array])
    assert float(found.value) == pytest.approx(fit.params[0])
    assert float(found.variance) == pytest.approx(max(v_seeds, v_images, v_seeds + v_images - v_residual))
    # Rules 2: the seeds' part is not below that of independent cells.
    cells = array.mean(-1)
    independent = sum(OLS(row, np.ones(5)).fit().bse[0] ** 2 for row in cells) / 9
    floored = max(v_seeds, independent)
    expected = max(floored, v_images, floored + v_images - v_residual)
    assert float(clustered_mean([array], floored=True).variance) == pytest.approx(expected)
    spreads = np.sqrt(cells.var(1, ddof=1).mean()), np.sqrt(5 * v_seeds), np.sqrt(5 * independent)
    assert seed_spreads(array) == pytest.approx(spreads)


def test_cells_that_cancel_out_are_floored_in_their_own_dataset() -> None:
    # Two groups that are ±1, ±2 in opposite directions: the seeds' means do not vary at all. Each group's mean has the
    # variance 2.5 / 5; their mean, which counts 2 of 3 groups, (2/3)² · (0.5 + 0.5) / 4.
    opposite = np.array([[-2.0, -1, 0, 1, 2], [2.0, 1, 0, -1, -2]])[..., None]
    other = np.array([[-2.0, -1, 0, 1, 2]])[..., None]
    assert float(clustered_mean([opposite, other]).variance) == pytest.approx(0.5 / 9)
    found = clustered_mean([opposite, other], floored=True)
    assert float(found.variance) == pytest.approx(4 / 9 * 0.25 + 0.5 / 9)
    assert float(found.df) == pytest.approx((4 + 2) ** 2 / (4**2 / 4 + 2**2 / 4))
    # A dataset whose seeds share more than that keeps its own.
    alike = np.repeat(other, 2, axis=0)
    assert float(clustered_mean([alike], floored=True).variance) == pytest.approx(0.5)
    assert seed_spreads(opposite) == pytest.approx((2.5**0.5, 0, 1.25**0.5))
    assert np.isnan(seed_spreads(opposite[:, :1])).all()


def test_one_value_per_cell_holds_the_test_images_fixed() -> None:
    (array,) = drawn(np.random.default_rng(9), (3, 5, 1))
    rows = array.flatten()[:, None]
    expected = jackknife(weighted_mean, rows, ["a"] * 15, [0, 1, 2, 3, 4] * 3)
    found = clustered_mean([array])
    assert [float(found.value), float(found.variance), float(found.df), float(found.image_variance)] == pytest.approx(
        [float(expected.value), float(expected.variance), 4, 0]
    )


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.3]))
def test_slope_is_that_of_parallel_lines_by_least_squares(seed: int, missing: float) -> None:
    arrays = drawn(np.random.default_rng(seed), (6, 4, 5), (3, 5, 7), missing=missing)
    lines, x = (
        [np.array(["a"] * 3 + ["b"] * 3), np.array(["a"] * 3)],
        [np.array([1.0, 2, 4] * 2), np.array([0.0, 1, 2])],
    )
    weights = slope_weights(lines, x, [(~np.isnan(array[..., 0])).sum(-1) for array in arrays])
    found = clustered_mean(arrays, weights=weights)
    design, y = [], []
    for place, array in enumerate(arrays):
        for g, s in product(*map(range, array.shape[:2])):
            if not np.isnan(array[g, s, 0]):
                line = 2 * place + (lines[place][g] == "b")
                design.append([x[place][g], *(float(line == each) for each in range(3))])
                y.append(array[g, s].mean())
    assert float(found.value) == pytest.approx(OLS(y, design).fit().params[0], abs=1e-9)


def test_variance_of_a_slope_is_that_of_the_seeds_slopes() -> None:
    (array,) = drawn(np.random.default_rng(10), (3, 5, 1))
    weights = slope_weights([np.array(["a"] * 3)], [np.array([1.0, 2, 4])], [np.full(3, 5)])
    slopes = [np.polyfit([1, 2, 4], array[:, seed, 0], 1)[0] for seed in range(5)]
    found = clustered_mean([array], weights=weights)
    assert float(found.value) == pytest.approx(np.mean(slopes))
    assert float(found.variance) == pytest.approx(np.var(slopes, ddof=1) / 5)


def test_a_group_that_is_left_out_counts_for_nothing_and_a_single_place_gives_no_slope() -> None:
    lines, x = [np.array(["a"] * 3)], [np.array([1.0, 2, 4])]
    (weights,) = slope_weights(lines, x, [np.array([5, 5, 0])])
    assert weights == pytest.approx([-1, 1, 0])
    (repeated,) = slope_weights(lines, x, [np.array([[5, 5, 0], [5, 5, 5]])])
    assert repeated[0] == pytest.approx(weights)
    assert np.isnan(slope_weights(lines, x, [np.array([5, 0, 0])])[0]).all()


def test_bounds_answer_for_the_worst_case() -> None:
    low, high = estimate(-0.3, 0.01, 8), estimate(-0.1, 0.0004, 4)
    found = Bounded(low, high)
    assert float(found.value) == pytest.approx(-0.2)
    assert float(found.df) == 4
    assert found.interval() == (low.interval()[0], high.interval()[1])
    assert float(found.p_difference()) == pytest.approx(max(float(low.p_difference()), float(high.p_difference())))
    # On both sides of 0: anything is possible, whatever the p values of the bounds.
    assert float(Bounded(low, estimate(0.1, 1e-9, 8)).p_difference()) == 1


def test_order_of_seeds_images_and_datasets_does_not_matter() -> None:
    rng = np.random.default_rng(6)
    first, second = drawn(rng, (3, 5, 8), (2, 5, 6))
    shuffled = [second, first[:, rng.permutation(5)][:, :, rng.permutation(8)][rng.permutation(3)]]
    assert float(clustered_mean(shuffled).variance) == pytest.approx(float(clustered_mean([first, second]).variance))


def test_one_seed_has_an_estimate_and_no_interval() -> None:
    found = clustered_mean([np.array([[[100.0, 0.0, 0.0, 0.0]]])])
    assert float(found.value) == 25
    assert np.isnan(found.interval()).all()
    assert np.isnan(found.p_difference())
    assert str(verdict(found.value, found.p_difference(), found.p_equivalence())) == "undecided"
    assert found.seeds_for_equivalence(1) is None


def test_jackknife_of_a_mean_is_its_variance_over_seeds() -> None:
    # Seeds' means 1, 2, 6 of dataset a, 0 and 4 of b; five pairs. V = (3·7 + 2·8) / 25; df by parts 21 and 16.
    rows = np.array([[1.0], [2.0], [6.0], [0.0], [4.0]])
    found = jackknife(weighted_mean, rows, ["a", "a", "a", "b", "b"], [0, 1, 2, 0, 1])
    assert float(found.value) == pytest.approx(13 / 5)
    assert float(found.variance) == pytest.approx((3 * 7 + 2 * 8) / 25)
    assert float(found.df) == pytest.approx(37**2 / (21**2 / 2 + 16**2 / 1))


def test_jackknife_leaves_out_all_backbones_of_a_seed_together() -> None:
    # Both backbones of a seed move together: half as many clusters as pairs, not a smaller variance.
    once = jackknife(weighted_mean, np.array([[1.0], [2.0], [6.0]]), ["a"] * 3, [0, 1, 2])
    twice = jackknife(weighted_mean, np.array([[1.0], [2.0], [6.0]] * 2), ["a"] * 6, [0, 1, 2] * 2)
    assert float(twice.variance) == pytest.approx(float(once.variance))
    assert float(twice.df) == 2


def test_slope_is_that_within_the_lines() -> None:
    # Two lines of slope −2 far apart; the second has only large x: the slope of all points would be positive.
    rows = np.array([[0, 0, 5.0], [0, 1, 3.0], [1, 2, 50.0], [1, 3, 48.0]])
    assert common_slope(rows, np.ones(4)) == pytest.approx(-2)
    assert common_slope(rows, np.array([1.0, 1.0, 0.0, 0.0])) == pytest.approx(-2)
    assert np.isnan(common_slope(rows[[0, 2]], np.ones(2)))


def test_intercept_is_that_of_the_line() -> None:
    rows = np.array([[1.0, 5.0], [2.0, 7.0], [4.0, 11.0]])  # y = 3 + 2x
    assert intercept(rows, np.ones(3)) == pytest.approx(3)
    # Weighed (1, 1, 2): middle 11/4 and 35/4 of (1, 5), (2, 7), (4, 11.5): slope 65/27.
    bent = np.array([[1.0, 5.0], [2.0, 7.0], [4.0, 11.5]])
    slope, start = np.polyfit(bent[:, 0], bent[:, 1], 1, w=np.sqrt([1, 1, 2]))
    assert intercept(bent, np.array([1.0, 1.0, 2.0])) == pytest.approx(start)
    assert slope > 2
    assert np.isnan(intercept(np.array([[1.0, 5.0], [1.0, 7.0]]), np.ones(2)))


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1 = 0.04, 0.06, 0.06, 0.04: never below the one before.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]) == pytest.approx([1, 1])
    assert holm([0.02, np.nan]) == pytest.approx([0.04, 1])
    assert holm([0.03]) == pytest.approx([0.03])
    assert len(holm([])) == 0


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_is_statsmodels(p: list[float]) -> None:
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


@pytest.mark.parametrize(
    ("value", "error", "word"),
    [
        (5.0, 1.0, "supported"),
        (-5.0, 1.0, "contradicted"),
        (1.0, 0.3, "supported, below 2 points"),
        (-1.0, 0.3, "contradicted, below 2 points"),
        (0.3, 0.5, "equivalent"),
        (1.0, 1.0, "undecided"),
        (0.0, 0.0, "equivalent"),
        (3.0, 0.0, "supported"),
        (1.0, np.nan, "undecided"),
    ],
)
def test_words_are_those_of_the_intervals(value: float, error: float, word: str) -> None:
    found = estimate(value, error**2, 8)
    assert str(verdict(found.value, found.p_difference(), found.p_equivalence())) == word
    if error > 0:
        low, high = found.interval()
        assert bool(low > 0 or high < 0) == word.startswith(("supported", "contradicted"))
        low, high = found.interval(0.9)
        assert bool(low > -2 and high < 2) == (word == "equivalent" or "below" in word)


def test_a_claim_without_margin_is_never_equivalent() -> None:
    assert str(verdict(0.0, 1.0, np.nan)) == "undecided"


def test_seeds_for_equivalence() -> None:
    # Error 2 points of 5 seeds, df 4: 90 % half width 2 · 2.132 = 4.3. With n seeds √(5/n) · 2 · t(n − 1) < 2:
    # 15 seeds give 1.1547 · 1.761 = 2.033, 16 give 1.1180 · 1.753 = 1.960.
    assert estimate(0.0, 4.0, 4).seeds_for_equivalence(5) == 16
    # More seeds do not help where the images alone leave too much.
    assert estimate(0.0, 4.0, 4, image_variance=3.0).seeds_for_equivalence(5) is None


def simulate(effect: float, draw_sd: float, rng: np.random.Generator, repetitions: int = 200) -> list[Array]:
    """Differences in points as the benchmark would give them: (repetitions, groups, seeds, images) per dataset.

    Two backbones by two numbers of shots, 5 seeds. A pair's difference is `effect`, plus what the drawn images do
    to all backbones and shots of their seed alike, plus its own (0.5 points); on top images that one method finds
    easier in all seeds (4 points), and luck on each image: either method alone is right on 15 % of them.
    """
    arrays = []
    for images in (400, 200):
        draw, own = rng.normal(0, draw_sd, (repetitions, 1, SEEDS, 1)), rng.normal(0, 0.5, (repetitions, 4, SEEDS, 1))
        rise = (effect + draw + own + rng.normal(0, 4, (repetitions, 1, 1, images))) / 200
        luck = rng.random((repetitions, 4, SEEDS, images), np.float32)
        arrays.append(100.0 * (luck < 0.15 + rise) - 100.0 * (luck > 0.85 + rise))
    return arrays


@pytest.mark.parametrize("draw_sd", [0.7, 1.5])
def test_false_verdicts_are_rare_and_real_effects_are_found(draw_sd: float) -> None:
    rng = np.random.default_rng(11)
    shares: dict[float, dict[str, float]] = {}
    for effect in (0.0, 2.0, 4.0):
        words: list[str] = []
        while len(words) < REPETITIONS:
            found = clustered_mean(simulate(effect, draw_sd, rng))
            words += verdict(found.value, found.p_difference(), found.p_equivalence()).tolist()
        shares[effect] = {word: words.count(word) / len(words) for word in sorted(set(words))}
        print(f"draw effect of {draw_sd} points, true gain of {effect}: {shares[effect]}")

    def share(effect: float, *parts: str) -> float:
        return sum(share for word, share in shares[effect].items() if any(part in word for part in parts))

    # Without an effect every difference is false; 2 points are not inside ± 2; 4 points are neither small nor a loss.
    assert 0 < share(0.0, "supported", "contradicted") <= 0.07
    assert 0 < share(2.0, "contradicted", "equivalent", "below") <= 0.07
    assert share(4.0, "contradicted", "equivalent", "below") <= 0.07
    assert share(0.0, "equivalent") > 0.3
    assert share(4.0, "supported") > 0.8


@pytest.mark.parametrize(("shared", "most"), [(0.0, 0.025), (0.3, 0.045)])
def test_the_floor_of_rules_2_lowers_the_share_of_false_verdicts(shared: float, most: float) -> None:
    """Of two datasets, three bundles and 5 seeds, as `lite` has them; docs/claims.md: 5.3 → 1.2 and 4.6 → 2.9 %."""
    rng = np.random.default_rng(12)

    def null(spread: float) -> Array:
        draw = rng.normal(0, shared**0.5, (REPETITIONS, 1, SEEDS, 1))
        return spread * (draw + rng.normal(0, (1 - shared) ** 0.5, (REPETITIONS, 3, SEEDS, 1)))

    arrays = [null(0.73), null(5.5)]
    rules_1, rules_2 = (
        (clustered_mean(arrays, floored=floored).p_difference() < 0.05).mean() for floored in (False, True)
    )
    assert 0.035 < rules_1 < 0.065
    assert 0 < rules_2 < min(most, rules_1)


def test_t_interval_by_hand() -> None:
    # t of 4 degrees of freedom at 97.5 %: 2.776445.
    assert t_interval(3.0, 2.0, 5) == pytest.approx((3 - 2.776445 * 2 / 5**0.5, 3 + 2.776445 * 2 / 5**0.5))
    assert t_interval(1.0, 1e-8, 2) == pytest.approx((1.0, 1.0), abs=1e-7)


@pytest.mark.parametrize(("mean", "std", "n"), [(None, None, 0), (1.0, None, 1), (1.0, 0.0, 3), (1.0, 5e-10, 3)])
def test_values_that_tell_nothing_of_their_spread_have_no_interval(
    mean: float | None, std: float | None, n: int
) -> None:
    assert t_interval(mean, std, n) is None


def test_the_part_of_the_variance_that_images_cause_stays_with_more_seeds() -> None:
    # By hand above: V of images 625 less the residual 625.
    assert float(clustered_mean([np.array([[[100.0, 100.0], [100.0, 0.0]]])]).image_variance) == 0
    # All of it where every seed gains on the same image, as there is no residual.
    alike = clustered_mean([np.tile([100.0, 0, 0, 0], (3, 5, 1))])
    assert float(alike.image_variance) == pytest.approx(float(alike.variance))


def test_a_single_image_holds_the_test_images_fixed() -> None:
    """The value of a whole cell: its spread over seeds is all there is. By hand: 2 · (25² + 25²) = 2500."""
    found = clustered_mean([np.array([[[100.0], [0.0]]])])
    assert float(found.value) == 50
    assert float(found.variance) == pytest.approx(2500)
    assert float(found.image_variance) == 0


def test_two_images_have_an_interval() -> None:
    assert np.isfinite(clustered_mean([np.array([[[100.0, 0.0], [0.0, 0.0]]])]).interval()).all()


@pytest.mark.parametrize("needed", [2, 3, 16, 999, 1000, 1001])
def test_seeds_for_equivalence_are_the_fewest_up_to_a_thousand(needed: int) -> None:
    # With 5 seeds and df 4, n seeds have df n − 1: a variance between what n and n − 1 seeds would allow.
    allowed = [(2 / t.ppf(0.95, n - 1)) ** 2 * n / 5 for n in (max(needed - 1, 2), needed)]
    variance = allowed[1] * 0.999 if needed == 2 else np.mean(allowed)
    assert estimate(0.0, float(variance), 4).seeds_for_equivalence(5) == (needed if needed <= 1000 else None)


def test_two_seeds_are_enough_to_plan() -> None:
    assert estimate(0.0, 4.0, 1).seeds_for_equivalence(2) is not None


def test_jackknife_of_one_seed_has_no_variance() -> None:
    found = jackknife(weighted_mean, np.array([[1.0], [3.0]]), ["a", "a"], [0, 0])
    assert float(found.value) == 2
    assert np.isnan(found.variance)
    assert float(found.image_variance) == 0


def test_slope_of_three_lines_by_hand() -> None:
    # Slopes 1, 3 and −1 over spans of 2, 2 and 4: weights 2, 2 and 8, so (2 + 6 − 8) / 12 = 0.
    rows = np.array([[0, 0, 0.0], [0, 2, 2.0], [1, 0, 7.0], [1, 2, 13.0], [2, 1, 90.0], [2, 5, 86.0]])
    assert common_slope(rows, np.ones(6)) == pytest.approx(0, abs=1e-12)
    # Weighed (1, 3) the first line has 2·2·(1/4·3/4)·4 = 3 instead of 2.
    assert common_slope(rows, np.array([1.0, 3.0, 1, 1, 1, 1])) == pytest.approx((3 + 6 - 8) / 13)


@pytest.mark.parametrize(("width", "known"), [(1e-5, True), (1e-7, False)])
def test_a_line_needs_two_places_further_apart_than_rounding(width: float, known: bool) -> None:
    # The sum of squares around the middle is width² / 2: 5e-11 and 5e-15.
    assert np.isfinite(common_slope(np.array([[0, 0, 1.0], [0, width, 2.0]]), np.ones(2))) == known
    assert np.isfinite(intercept(np.array([[0, 1.0], [width, 2.0]]), np.ones(2))) == known


def test_a_verdict_needs_a_p_value_below_five_hundredths_and_a_direction() -> None:
    assert str(verdict(1.0, 0.05, np.nan)) == "undecided"
    assert str(verdict(1.0, 0.0499, np.nan)) == "supported"
    assert str(verdict(1.0, 1.0, 0.05)) == "undecided"
    assert str(verdict(1.0, 1.0, 0.0499)) == "equivalent"
    assert str(verdict(0.0, 0.01, np.nan)) == "undecided"
    assert verdict([5, -5, 1, -1], [0.01] * 4, [1, 1, 0.01, 0.01]).tolist() == [
        *("supported", "contradicted", "supported, below 2 points", "contradicted, below 2 points"),
    ]

"""How bfloat16 changes accuracies: the cells of the preset `lite`, trained in bfloat16 and in float32.

    FDL_DATA_DIR=<folder> snakemake --cores all --config preset=lite-float32
    python -m benchmarks.precision

In a clone, `python -m fdl import reports/<preset>/records.tar.gz --preset <preset>` and
`python -m fdl collect --partial --preset <preset>`, for both presets, take the place of the training.
Reads `reports/lite/runs.csv` and `reports/lite-float32/runs.csv`, writes `benchmarks/results/precision.md`. The test
is that of docs/claims.md: equivalent if the 90 % interval of the mean difference lies inside ± 2 points.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from fdl.core import files, layout
from fdl.core.errors import InputError
from fdl.core.protocol import DATASETS
from fdl.core.settings import Cell, Params, load
from fdl.core.titles import method_title
from fdl.evaluation.statistics import MARGIN, Estimate, verdict

HALF, FULL = "lite", "lite-float32"
KEYS = ["dataset", "shots", "method", "seed"]
QUANTITIES = {"mean": "mean member", "soft": "soft vote"}
TARGET = Path("benchmarks/results/precision.md")


def accuracies(params: Params, precision: str) -> pd.DataFrame:
    """Test accuracy in %, with a row per cell and a column per quantity.

    Raises:
        InputError: there is no runs.csv, or it holds cells of another precision.
    """
    folder = layout.report_folder(params)
    try:
        runs, costs = pd.read_csv(folder / "runs.csv"), pd.read_csv(folder / "costs.csv")
    except FileNotFoundError as error:
        raise InputError(f"{error.filename} is missing; run preset {params.preset} first") from error
    if other := set(costs.loc[costs["status"] == "done", "precision"]) - {precision}:
        raise InputError(f"{folder / 'costs.csv'}: cells of {', '.join(sorted(other))} among those of {precision}")
    chosen = runs[(runs["split"] == "test") & (runs["metric"] == "accuracy") & (runs["selection"] == "last")]
    return 100 * chosen.pivot_table(index=KEYS, columns="combiner", values="value")[list(QUANTITIES)]


def same_but_for_precision(cells: pd.Index, half: Params, full: Params) -> None:
    """Raise `InputError` unless both presets train the cells alike."""
    for dataset, shots, method, seed in cells:
        cell = Cell(dataset, "alexnet", int(shots), method, int(seed))
        differ = {
            name
            for name, value in half.training_settings(cell).items()
            if full.training_settings(cell).get(name) != value
        }
        if differ - {"precision"}:
            raise InputError(f"{cell}: {HALF} and {FULL} differ in {', '.join(sorted(differ - {'precision'}))}")


def mean_of(differences: pd.Series) -> Estimate:
    """Estimate of the mean over seeds, by Student's t distribution."""
    count = np.array(len(differences))
    return Estimate(
        np.array(differences.mean()), np.array(differences.var() / count), count - 1, image_variance=np.array(0.0)
    )


def row(labels: list[str], half: pd.Series, full: pd.Series, *, sign: str = "") -> str:
    """A row of the table: both means, their difference with its interval, and the verdict of the equivalence test."""
    estimate = mean_of(half - full)
    low, high = (float(bound) for bound in estimate.interval())
    word = str(verdict(estimate.value, np.array(1.0), estimate.p_equivalence()))
    means = [f"{half.mean():{sign}.1f}", f"{full.mean():{sign}.1f}"]
    shown = [*means, f"{estimate.value:+.2f} [{low:+.2f}, {high:+.2f}]"]
    return "| " + " | ".join([*labels, str(len(half)), *(text.replace("-", "−") for text in shown), word]) + " |"


def by_shots(half: pd.Series, full: pd.Series) -> list[tuple[str, pd.Series, pd.Series]]:
    """Pairs of values by seed, for each number of shots and for the mean of each seed over all shots ("all")."""
    pairs = []
    for shots, values_of_shots in half.groupby("shots"):
        if len(values_of_shots) > 1:  # a mean of one seed has no interval
            pairs.append((str(shots), values_of_shots, full.loc[values_of_shots.index]))
    if len(pairs) > 1:
        means = [values.unstack("shots").dropna().mean(axis=1) for values in (half, full)]
        if len(means[0]) > 1:
            pairs.append(("all", *means))
    return pairs


def table(half: pd.DataFrame, full: pd.DataFrame) -> str:
    """Markdown: accuracies in both precisions, then the effect of the loss in both."""
    head = "bfloat16 | float32 | difference [95 %] | within ±" + f"{MARGIN:g} points |"
    lines = [f"| Dataset | Method | Accuracy | Shots | Seeds | {head}", "|---|---|---|--:|--:|--:|--:|--:|---|"]
    for (dataset, method), cells in half.groupby(["dataset", "method"]):
        for name, title in QUANTITIES.items():
            values = [frame.loc[cells.index, name].droplevel(["dataset", "method"]) for frame in (half, full)]
            for shots, *pair in by_shots(*values):
                lines.append(row([DATASETS[dataset].title, method_title(method), title, shots], *pair))
    lines += ["", f"| Dataset | FDL − classical | Shots | Seeds | {head}", "|---|---|--:|--:|--:|--:|--:|---|"]
    effects = []
    for frame in (half, full):
        arms = frame["soft"].unstack("method").reindex(columns=["fdl", "classical"])
        effects.append((arms["fdl"] - arms["classical"]).dropna())
    for dataset, effect_of_dataset in effects[0].groupby("dataset"):
        values = [effect.loc[effect_of_dataset.index].droplevel("dataset") for effect in effects]
        for shots, *pair in by_shots(*values):
            lines.append(row([DATASETS[dataset].title, "soft vote", shots], *pair, sign="+"))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Compare the cells that have results in both presets."""
    presets = load(preset=HALF), load(preset=FULL)
    half, full = (accuracies(*pair) for pair in zip(presets, ("bfloat16", "float32"), strict=True))
    common = half.index.intersection(full.index)
    if common.empty:
        raise InputError(f"no cell is in both presets, {HALF} and {FULL}")
    same_but_for_precision(common, *presets)
    text = table(half.loc[common], full.loc[common])
    files.write_atomically(TARGET, text.encode())
    print(text)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"fdl: {error}")

"""What bfloat16 changes: trainings of `lite` beside the same in float32, seed by seed.

    FDL_DATA_DIR=<folder> snakemake --cores all --config preset=lite-float32
    python -m benchmarks.precision

Reads `reports/lite/runs.csv` and `reports/lite-float32/runs.csv`, as far as they go, and writes
`benchmarks/results/precision.md`. The test is that of docs/claims.md: equivalent if the 90 % interval of the mean
difference lies inside ± 2 points.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from fdl import layout, records
from fdl.errors import InputError
from fdl.params import Cell, Params, load
from fdl.reporting.statistics import MARGIN, Estimate, verdict
from fdl.reporting.titles import dataset_title, method_title

HALF, FULL = "lite", "lite-float32"
KEYS = ["dataset", "shots", "method", "seed"]
QUANTITIES = {"mean": "mean member", "soft": "soft vote"}
TARGET = Path("benchmarks/results/precision.md")


def accuracies(params: Params, precision: str) -> pd.DataFrame:
    """Test accuracy in %, a row per cell and a column per quantity.

    Raises:
        InputError: no runs.csv, or cells of another precision.
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
    """Mean over seeds, with Student's t."""
    count = np.array(len(differences))
    return Estimate(
        np.array(differences.mean()), np.array(differences.var() / count), count - 1, image_variance=np.array(0.0)
    )


def row(labels: list[str], half: pd.Series, full: pd.Series) -> str:
    """Both means, their difference with its intervals, and what the test of equivalence says."""
    estimate = mean_of(half - full)
    low, high = (float(bound) for bound in estimate.interval())
    word = str(verdict(estimate.value, np.array(1.0), estimate.p_equivalence()))
    shown = [f"{half.mean():.1f}", f"{full.mean():.1f}", f"{estimate.value:+.2f} [{low:+.2f}, {high:+.2f}]", word]
    return "| " + " | ".join([*labels, str(len(half)), *shown]) + " |"


def table(half: pd.DataFrame, full: pd.DataFrame) -> str:
    """Markdown: accuracies in both precisions, then the effect of the loss in both."""
    keys = ["dataset", "shots", "method"]
    head = "bfloat16 | float32 | difference [95 %] | within ±" + f"{MARGIN:g} points |"
    lines = [f"| Dataset | Shots | Method | Accuracy | Seeds | {head}", "|---|--:|---|---|--:|--:|--:|--:|---|"]
    for (dataset, shots, method), cells in half.groupby(keys):
        for name, title in QUANTITIES.items():
            labels = [dataset_title(dataset), str(shots), method_title(method), title]
            lines.append(row(labels, cells[name], full.loc[cells.index, name]))
    lines += ["", f"| Dataset | Shots | FDL − classical | Seeds | {head}", "|---|--:|---|--:|--:|--:|--:|---|"]
    effects = [frame["soft"].unstack("method").reindex(columns=["fdl", "classical"]) for frame in (half, full)]
    both = [(frame["fdl"] - frame["classical"]).dropna() for frame in effects]
    for (dataset, shots), effect in both[0].groupby(["dataset", "shots"]):
        if len(effect) > 1:  # a mean of one seed has no interval
            labels = [dataset_title(dataset), str(shots), "soft vote"]
            lines.append(row(labels, effect, both[1].loc[effect.index]))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Compare the cells that both presets have."""
    presets = load(preset=HALF), load(preset=FULL)
    half, full = (accuracies(*pair) for pair in zip(presets, ("bfloat16", "float32"), strict=True))
    common = half.index.intersection(full.index)
    # A mean of one seed has no interval.
    common = common[half.loc[common].groupby(KEYS[:-1])["soft"].transform("size") > 1]
    if common.empty:
        raise InputError(f"no cell has two seeds in both presets, {HALF} and {FULL}")
    same_but_for_precision(common, *presets)
    text = table(half.loc[common], full.loc[common])
    records.write_atomically(TARGET, text.encode())
    print(text)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"fdl: {error}")

"""How much accuracy batch norm's moving statistics cost in trainings of few steps.

The moving averages settle only after many hundred steps, because Keras' momentum is 0.01 (docs/reference.md 5). This
compares the validation accuracy of the same trainings over epochs, evaluated with moving statistics (preset
`lite-moving`) and with statistics re-estimated from the training images (`lite-selection`):

    python -m benchmarks.batch_norm

Writes `benchmarks/results/batch-norm.md` and `.png`. Uses all cells that have records of both presets.
"""

import sys
from collections import defaultdict
from pathlib import Path

import pandas as pd

from fdl.core import files
from fdl.core.errors import InputError
from fdl.core.protocol import DATASETS
from fdl.core.settings import load
from fdl.core.titles import method_title
from fdl.reporting.drawing import house_style, legend_below, look, save
from fdl.reporting.results import read_history, read_results
from fdl.results.collect import collect

PRESETS = {"moving": "lite-moving", "re-estimated": "lite-selection"}
EPOCHS = (10, 25, 50, 100)  # shown in the table
TARGET = Path("benchmarks/results/batch-norm")


def read() -> pd.DataFrame:
    """Validation accuracy in %, mean over the members: a row per cell, kind of statistics and validated epoch."""
    rows = []
    for statistics, preset in PRESETS.items():
        params = load(preset=preset)
        collect(params, partial=True)
        for state in read_results(params).collected.of("done"):
            history = read_history(params, state.cell)
            columns = [name for name in history if str(name).startswith("validation_accuracy_")]
            for epoch, values in zip(history["epoch"], history[columns].to_numpy(), strict=True):
                if values[0] == values[0]:  # not NaN: the epoch was validated
                    key = {name: getattr(state.cell, name) for name in ("dataset", "shots", "method", "seed")}
                    rows.append(key | {"statistics": statistics, "epoch": int(epoch) + 1, "value": 100 * values.mean()})
    frame = pd.DataFrame(rows, columns=["dataset", "shots", "method", "seed", "statistics", "epoch", "value"])
    # Only cells that were trained under both.
    keys = ["dataset", "shots", "method", "seed"]
    both = frame.groupby(keys)["statistics"].transform("nunique") == len(PRESETS)
    return frame[both]


def table(frame: pd.DataFrame) -> str:
    """Mean ± standard deviation over seeds after the epochs `EPOCHS`, as Markdown."""
    epochs = [epoch for epoch in EPOCHS if (frame["epoch"] == epoch).any()]
    lines = [
        "| Dataset | Shots | Method | Statistics | " + " | ".join(f"epoch {epoch}" for epoch in epochs) + " | Seeds |"
    ]
    lines.append("|---|--:|---|---|" + "--:|" * (len(epochs) + 1))
    for key, cells in frame.groupby(["dataset", "shots", "method", "statistics"]):
        dataset, shots, method, statistics = map(str, key)
        at = {epoch: cells.loc[cells["epoch"] == epoch, "value"] for epoch in epochs}
        texts = [f"{values.mean():.1f} ± {values.std():.1f}" for values in at.values()]
        seeds = cells["seed"].nunique()
        labels = f"{DATASETS[dataset].title} | {shots} | {method_title(method)} | {statistics}"
        lines.append(f"| {labels} | {' | '.join(texts)} | {seeds} |")
    return "\n".join(lines) + "\n"


def draw(frame: pd.DataFrame) -> None:
    """Draw the validation accuracy over epochs: a panel per number of shots; moving statistics are dotted."""
    from matplotlib.figure import Figure

    groups: dict[str, list[tuple[str, str, pd.Series[float]]]] = defaultdict(list)
    for key, cells in frame.groupby(["shots", "method", "statistics"]):
        shots, method, statistics = map(str, key)
        groups[shots].append((method, statistics, cells.groupby("epoch")["value"].mean()))
    with house_style():
        figure = Figure(figsize=(2.6 * len(groups) + 0.4, 2.6), layout="constrained")
        for axes, (shots, lines) in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups.items(), strict=True):
            for method, statistics, values in lines:
                colour = look(["classical", "fdl"], method)["color"]
                style = "-" if statistics == "re-estimated" else ":"
                label = f"{method_title(method)}, {statistics}"
                axes.plot(values.index, values.to_numpy(), style, color=colour, label=label)
            axes.set(title=f"{shots} images per class", xlabel="epoch", ylim=(0, None))
        figure.axes[0].set_ylabel("validation accuracy,\nmean of the members (%)")
        legend_below(figure, figure.axes[:1])
    save(figure, TARGET, endings=["png"])


def main() -> None:
    """Compare the cells that have records of both presets."""
    frame = read()
    if frame.empty:
        raise InputError(f"no cell has records of both presets, {' and '.join(PRESETS.values())}; run them first")
    files.write_atomically(TARGET.with_suffix(".md"), table(frame).encode())
    draw(frame)
    print(table(frame))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"fdl: {error}")

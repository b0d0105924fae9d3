"""Writes fabricated records, to test what reads records. Their numbers are invented."""

from collections.abc import Collection, Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np

from fdl.core import files, layout
from fdl.core.head_settings import head_settings
from fdl.core.protocol import DATASETS
from fdl.core.provenance import SCORES_VERSION
from fdl.core.settings import Cell, Params, load
from fdl.core.titles import dataset_title
from fdl.evaluation.metrics import ECE_BINS
from fdl.reporting.results import Results
from fdl.results import records
from fdl.results.collect import CELL_COLUMNS, Collected, DatasetFacts

PARAMS_FILE = Path(__file__).parents[2] / "params.yaml"
COMBINERS = ("member0", "member1", "mean", "best", "hard", "soft")


def small_grid(**overrides: object) -> Params:
    """Settings of a grid of eight cells: NEU, AlexNet, shots 3 and 5, two methods, two seeds."""
    grid = {"datasets": ["neu"], "backbones": ["alexnet"], "shots": [3, 5], "seeds": [0, 1]}
    return load(PARAMS_FILE, preset="demo", overrides=grid | overrides)


def facts_of_all(
    params: Params, *, synthetic: bool = False, classes: tuple[str, ...] = ("a", "b"), test: int = 300
) -> dict[str, DatasetFacts]:
    """What `collect` would say of every dataset of the grid, with these classes and test images."""
    titles = {cell.dataset: params.protocol(cell.dataset).title for cell in params.cells()}
    return {
        name: DatasetFacts(dataset_title(title, synthetic=synthetic), synthetic, params.source, (), classes, test)
        for name, title in titles.items()
    }


def results_in_memory(params: Params, collected: Collected, accuracy: Mapping[Cell, float]) -> Results:
    """Results without files: soft votes with these accuracies on the test images."""
    import pandas as pd

    rows = [
        (*astuple(cell), params.selections_of(cell.dataset)[0], "test", "soft", "accuracy", value)
        for cell, value in accuracy.items()
    ]
    columns = [*CELL_COLUMNS, "selection", "split", "combiner", "metric", "value"]
    return Results(params, collected, pd.DataFrame(rows, columns=columns))


def fabricated_accuracy(cell: Cell, classes: int) -> float:
    """An invented accuracy that rises with the shots; FDL gains a little."""
    rng = np.random.default_rng([ord(char) for char in cell.key])
    spread = rng.normal(0, 0.02) + (0.015 if cell.method == "fdl" else 0)
    backbone = {"alexnet": 0.0, "vgg": 0.05, "resnet": -0.04}[cell.backbone]
    learned = 0.1 + 0.16 * np.log10(cell.shots) + backbone
    return float(np.clip(1 / classes + (1 - 1 / classes) * learned + spread, 0, 1))


def invented(*, members: int = 2, classes: int = 2, tests: int = 4, cosine: float = 0.5) -> dict[str, Any]:
    """Content of a `cam.npz`: member 0 is right and looks at the upper left, member 1 says 0, its maps are empty."""
    labels = np.arange(classes)
    maps = np.zeros((members, classes, 4, 4), np.float16)
    maps[0, :, 0, 0] = 1
    predicted = np.zeros((members, classes), np.int64)
    predicted[0] = labels
    empty = np.zeros((members, tests), bool)
    return {
        "cosines": np.full((members * (members - 1) // 2, tests), cosine, np.float16),
        "empty": np.packbits(empty, axis=-1),
        "maps_true": maps,
        "maps_predicted": maps,
        "descriptors": maps + np.float16(0.25),
        "descriptor_mask": maps > 0,
        "predicted": predicted,
        "labels": labels,
        "positions": 2 * labels,
        "pixels": np.random.default_rng(0).integers(0, 256, (classes, 16, 16, 3), dtype=np.uint8),
    }


def fabricated_history(cell: Cell, members: int, *, epochs: int = 6) -> bytes:
    """An invented `history.parquet`: losses that fall, the cosine term faster in FDL."""
    import io

    import pyarrow as pa
    from pyarrow import parquet

    epoch = np.arange(epochs)
    falling = np.exp(-epoch / (2 if cell.method == "fdl" else 20)) + 0.01 * cell.seed
    columns = {"epoch": epoch, "loss": 2 * falling, "cosine": 10 * falling, "gaussian": 9 * falling}
    columns |= {f"cross_entropy_{member}": falling + member / 10 for member in range(members)}
    content = io.BytesIO()
    parquet.write_table(pa.table(columns), content)
    return content.getvalue()


def fabricated_correct(params: Params, cell: Cell) -> dict[str, Any]:
    """Invented content of a `correct.npz`, as far as figures read it: more confident than right, by method."""
    images = np.arange(ECE_BINS, dtype=np.float64) * (1 + cell.seed)
    confidence = images * (np.arange(ECE_BINS) + 0.5) / ECE_BINS
    right = confidence * (0.9 if cell.method == "fdl" else 0.7)
    return {f"reliability/{rule}": np.stack([images, confidence, right]) for rule in params.selections_of(cell.dataset)}


def fabricate(
    params: Params,
    *,
    accuracy: Mapping[Cell, float] | None = None,
    failed: Collection[str] = (),
    skip: Collection[str] = (),
    seconds: float = 1.5,
    shuffle: bool = False,
    **data: object,
) -> None:
    """Write a record for every cell of the grid, through the same door as a training does.

    Args:
        params: whose grid, below the working directory.
        accuracy: soft-vote test accuracy by cell; default invented.
        failed: keys of cells that diverged.
        skip: keys of cells to leave without a record.
        seconds: training time; differs between otherwise equal records.
        shuffle: write the metric rows in another order.
        data: replaces entries of the `data` block.
    """
    for cell in params.cells():
        if cell.key in skip:
            continue
        names = DATASETS[cell.dataset].classes
        classes = list(names[:10] if params.source == "synthetic" else names)
        value = accuracy[cell] if accuracy else fabricated_accuracy(cell, len(classes))
        rows = [
            {"selection": rule, "split": split, "combiner": combiner, "metric": metric}
            | {"value": value if combiner == "soft" and split == "test" else value * 0.9}
            for rule in params.selections_of(cell.dataset)
            for split in ("validation", "test")
            for metric in ("accuracy", "f1_macro")
            for combiner in COMBINERS
        ]
        rows += [
            {"selection": rule, "split": "test", "combiner": "ensemble", "metric": metric, "value": measured}
            for rule in params.selections_of(cell.dataset)
            for metric, measured in {"disagreement": 1 - value, "mutual_information": 0.1, "cosine_sum": 3.0}.items()
        ]
        folder = layout.record_folder(params, cell)
        temporary = folder.with_name(f".{folder.name}.partial")
        temporary.mkdir(parents=True)
        (temporary / "history.parquet").write_bytes(fabricated_history(cell, params.members))
        diverged = cell.key in failed
        if not diverged:
            correct = fabricated_correct(params, cell)
            np.savez(temporary / "correct.npz", allow_pickle=False, **correct)
            shown = invented(members=params.members, classes=min(len(classes), 10))
            np.savez(temporary / "cam.npz", allow_pickle=False, **shown)
            (temporary / "metrics.json").write_bytes(files.to_json(rows[::-1] if shuffle else rows))
        records.publish(temporary, folder, _run(params, cell, classes, diverged, seconds, data))


def _run(
    params: Params, cell: Cell, classes: list[str], diverged: bool, seconds: float, data: Mapping[str, object]
) -> dict[str, Any]:
    run: dict[str, Any] = {
        "key": cell.key,
        "cell": {name: getattr(cell, name) for name in ("dataset", "backbone", "shots", "method", "seed")},
        "status": "failed" if diverged else "done",
        "failure": {"epoch": 12, "reason": "member 2: the cross-entropy is nan"} if diverged else None,
        "digests": {
            "settings": params.settings_digest(cell),
            "training": f"training of {cell.key}",
            "heads": (heads := head_settings(params, cell)) and heads.digest,
            "scores": SCORES_VERSION,
        },
        "settings": params.training_settings(cell),
        "data": {
            "source": params.source,
            "synthetic": params.source == "synthetic",
            "notes": [],
            "classes": classes,
            "hash": f"pixels of {cell.dataset}",
            "train": cell.shots * len(classes),
            "validation": 20,
            "test": 300,
        }
        | dict(data),
        "split": {"hash": f"{cell.dataset} {cell.shots} {params.draw_of(cell.seed)}", "draw": 0, "rule": "random"},
        "selected": {} if diverged else {rule: [14] * params.members for rule in params.selections_of(cell.dataset)},
        "timings": {
            "seconds": seconds + 0.5,
            "train_seconds": seconds,
            "evaluate_seconds": 0.5,
            "peak_memory_mb": 512.123456,
        },
        "provenance": {"git": None, "versions": {}, "device": "cpu", "precision": "float32"},
    }
    return run if diverged else run | {"parameters": 12345}

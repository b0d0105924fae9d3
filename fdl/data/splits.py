"""Draws the k-shot training images; a split names the rows of a prepared dataset that a training may see."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fdl.core import files, layout
from fdl.core.errors import InputError
from fdl.core.settings import Params, digest
from fdl.data.near_duplicates import resembling
from fdl.data.pools import TEST, TRAIN, VALIDATION
from fdl.data.prepare import Prepared, load

RULES = ("random", "first")


@dataclass(frozen=True)
class Split:
    """One k-shot draw: rows of the prepared arrays, int64."""

    train: NDArray[np.int64]  # in training order
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    validation_small: NDArray[np.int64]  # part of `validation`, no larger than `train`
    near_duplicates: NDArray[np.int64] | None  # part of `test` that resembles a training image; None: not compared
    rule: str
    draw: int
    hash: str


def draw(
    labels: Sequence[int] | NDArray[np.integer[Any]], shots: int, seed: int, *, rule: str = "random"
) -> NDArray[np.int64]:
    """Draw k images per class from a pool.

    `random` is the authors' algorithm, number by number (docs/reference.md 4.2): Python's generator
    seeded once; for every class in order a sample of k from the list of its positions; one shuffle of
    all. Their own draw is seed 0. `first` takes the first k of each class in file order, then shuffles
    once: batches are cut from this order, and unshuffled they would hold a single class.

    Args:
        labels: class of every image of the pool, 0 to C-1.
        shots: images per class, k ≥ 1.
        seed: of the draw.
        rule: "random" or "first".

    Returns:
        C · k positions in `labels`.

    Raises:
        InputError: a class holds fewer than k images.
        ValueError: the rule is unknown.
    """
    if rule not in RULES:
        raise ValueError(f"rule {rule!r} is not one of {', '.join(RULES)}")
    classes = np.asarray(labels, dtype=np.int64)
    _check_shots(classes, shots, [str(label) for label in range(classes.max(initial=-1) + 1)], "the pool")
    generator = random.Random(seed)
    chosen: list[int] = []
    for label in range(classes.max() + 1):
        positions = np.flatnonzero(classes == label).tolist()
        chosen += generator.sample(positions, shots) if rule == "random" else positions[:shots]
    generator.shuffle(chosen)
    return np.array(chosen, np.int64)


def _check_shots(labels: NDArray[np.integer[Any]], shots: int, classes: Sequence[str], where: str) -> None:
    if shots < 1:
        raise InputError(f"{shots} shots: at least 1 image per class must be drawn")
    if not classes:
        raise InputError(f"{shots} shots: {where} holds no images")
    counts = np.bincount(labels, minlength=len(classes))
    label = int(counts.argmin())
    if counts[label] < shots:
        raise InputError(
            f"{shots} shots: {where} holds only {counts[label]} images of class {classes[label]}; ask for fewer shots"
        )


def write_split(params: Params, dataset: str, shots: int, draw_index: int, pool: int | None = None) -> Path:
    """Draw the k-shot training images of a prepared dataset into `layout.split_file`.

    Draw 0 of the datasets whose authors took the first k files takes these too; every other draw is random.

    Args:
        pool: the backbone's own (`Params.pool_of`); None: the dataset's.

    Raises:
        InputError: the dataset is not prepared, or a class holds fewer than `shots` images.
    """
    prepared = load(layout.prepared_folder(params, dataset, pool))
    rule = "first" if params.protocol(dataset).first_k and draw_index == 0 else "random"
    rows = np.flatnonzero(prepared.pools == TRAIN)
    _check_shots(prepared.labels[rows], shots, prepared.classes, f"the training pool of {dataset}")
    train = rows[draw(prepared.labels[rows], shots, draw_index, rule=rule)]
    validation, test = (np.flatnonzero(prepared.pools == pool) for pool in (VALIDATION, TEST))
    listed = params.near_duplicates.get(dataset)
    content: dict[str, Any] = {
        "dataset": dataset,
        "source": prepared.source,
        "shots": shots,
        "draw": draw_index,
        "rule": rule,
        "prepared": prepared.hash,
        "classes": prepared.classes,
        "train": [
            {"row": int(row), "id": str(prepared.ids[row]), "class": prepared.classes[prepared.labels[row]]}
            for row in train
        ],
        "validation": validation.tolist(),
        "test": test.tolist(),
        "validation_small": _small(validation, prepared.labels, shots, draw_index).tolist(),
        **({"near_duplicates": resembling(Path(listed), prepared, train, test).tolist()} if listed else {}),
    }
    path = layout.split_file(params, dataset, shots, draw_index, pool)
    files.write_atomically(path, files.to_json(content | {"hash": digest(content)}))
    return path


def _small(validation: NDArray[np.int64], labels: NDArray[np.int16], shots: int, draw_index: int) -> NDArray[np.int64]:
    """At most k validation images per class, another choice for every draw."""
    generator = random.Random(f"validation_small {draw_index}")
    chosen: list[int] = []
    for label in np.unique(labels):
        rows = validation[labels[validation] == label].tolist()
        chosen += generator.sample(rows, min(shots, len(rows)))
    return np.array(sorted(chosen), np.int64)


def load_split(path: Path, prepared: Prepared) -> Split:
    """Read a draw and check that it was made from these prepared images.

    Raises:
        InputError: the file is missing, damaged, changed by hand, or of other images.
    """
    again = "run `python -m fdl split`"
    try:
        content = json.loads(path.read_bytes())
        stored = content.pop("hash")
        if stored != digest(content):
            raise ValueError("its hash does not fit its content")
        listed = content.get("near_duplicates")
        if content["prepared"] == prepared.hash:
            return Split(
                train=np.array([image["row"] for image in content["train"]], np.int64),
                validation=np.array(content["validation"], np.int64),
                test=np.array(content["test"], np.int64),
                validation_small=np.array(content["validation_small"], np.int64),
                near_duplicates=np.array(listed, np.int64) if listed is not None else None,
                rule=content["rule"],
                draw=content["draw"],
                hash=stored,
            )
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {again}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({str(error) or type(error).__name__}); delete it and {again}") from None
    raise InputError(f"{path}: drawn from other images than those in {prepared.folder}; {again}")

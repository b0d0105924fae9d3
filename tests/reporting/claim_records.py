"""Records with predictions, to test the claims. Their numbers are invented."""

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from fdl.core import files, layout
from fdl.core.head_settings import head_settings
from fdl.core.provenance import SCORES_VERSION
from fdl.core.settings import Cell, Params, load
from fdl.reporting.claim_tables import Claim
from fdl.results import records
from fdl.results.collect import collect
from fdl.results.scoring import write_scores
from tests.reporting.fabricate import PARAMS_FILE, fabricated_history, invented

IMAGES, MEMBERS, CLASSES = 60, 3, 6
GRID = {"datasets": ["bsd", "neu"], "backbones": ["alexnet"], "shots": [3, 5], "seeds": [0, 1, 2, 3, 4]}
OF_MAPS = ("cosine_sum", "gaussian_sum", "cam_overlap", "cam_left_out", "cam_empty")  # the tests say what these are
Accuracy = Callable[[Cell], float]


def grid(frozen: Mapping[str, object] | None = None, *, rules: int = 1, **overrides: object) -> Params:
    """Real images, two datasets, one backbone, two numbers of shots, 5 seeds; all of it frozen, by one of the rules."""
    values = GRID | {"members": MEMBERS, "methods": ["classical", "fdl"]} | overrides
    names = ("datasets", "backbones", "shots", "methods", "seeds")
    block = {name: values[name] for name in names} | dict(frozen or {})
    claims = {"rules": rules, "grid": [block]}
    return load(PARAMS_FILE, preset="lite", overrides=values | {"image_size": None, "claims": claims})


def gain(points: float) -> Accuracy:
    """Members of FDL are right more often by so many points."""
    return lambda cell: 0.5 + (points / 100 if cell.method == "fdl" else 0)


def write(
    params: Params,
    accuracy: Accuracy,
    *,
    failed: Collection[str] = (),
    skip: Collection[str] = (),
    rows: Callable[[Cell], Mapping[str, float]] = lambda cell: {},
    diverse: bool = False,
    maps: Callable[[Cell], Mapping[str, Any]] = lambda cell: invented(members=MEMBERS),
) -> None:
    """A record of every cell, through the doors that training uses, and `collect` over them.

    Args:
        params: whose cells.
        accuracy: of the members of a cell on test.
        failed: keys of cells that diverged.
        skip: keys of cells to leave without a record.
        rows: metrics of the ensemble on test, by name.
        diverse: members of FDL are wrong in ways of their own.
        maps: content of `cam.npz`.
    """
    for cell in params.cells():
        if cell.key in skip:
            continue
        folder = layout.record_folder(params, cell)
        temporary = folder.with_name(f".{folder.name}.partial")
        temporary.mkdir(parents=True)
        diverged = cell.key in failed
        (temporary / "history.parquet").write_bytes(fabricated_history(cell, MEMBERS))
        if not diverged:
            found = predictions(cell, accuracy(cell), diverse and cell.method == "fdl")
            np.savez(temporary / "predictions.npz", allow_pickle=False, **found)
            np.savez(temporary / "cam.npz", allow_pickle=False, **maps(cell))
            write_scores(temporary, temporary)
            scored = json.loads((temporary / "metrics.json").read_bytes())
            metrics = [row for row in scored if row["metric"] not in OF_MAPS]
            metrics += [
                {"selection": rule, "split": "test", "combiner": "ensemble", "metric": name, "value": value}
                for rule in params.selections_of(cell.dataset)
                for name, value in rows(cell).items()
            ]
            (temporary / "metrics.json").write_bytes(files.to_json(metrics))
        records.publish(temporary, folder, run(params, cell, diverged))
    collect(params, partial=True)


def predictions(cell: Cell, accuracy: float, diverse: bool) -> dict[str, Any]:
    """Logits of members that are right on shares of the images near `accuracy`; arms of a seed share their luck."""
    rng = np.random.default_rng([*cell.bundle.key.encode(), cell.seed])
    found: dict[str, Any] = {}
    for split in ("validation", "test"):
        labels = rng.integers(0, CLASSES, IMAGES)
        luck = rng.random((1, IMAGES)) * 0.7 + rng.random((MEMBERS, IMAGES)) * 0.3
        wrong = (labels + 1 + rng.integers(0, CLASSES - 1, (MEMBERS, IMAGES)) * diverse) % CLASSES
        wrong = np.where(wrong == labels, (labels + 1) % CLASSES, wrong)
        predicted = np.where(luck < accuracy, labels, wrong)
        logits = 4.0 * (predicted[..., None] == np.arange(CLASSES)) + rng.normal(0, 0.1, (MEMBERS, IMAGES, CLASSES))
        found |= {f"{split}/labels": labels, f"last/{split}/logits": logits.astype(np.float32)}
        found[f"last/{split}/distance"] = np.zeros(2)
    return found


def run(params: Params, cell: Cell, diverged: bool) -> dict[str, Any]:
    synthetic = params.source == "synthetic"
    return {
        "key": cell.key,
        "status": "failed" if diverged else "done",
        "failure": {"epoch": 12, "reason": "member 2: the cross-entropy is nan"} if diverged else None,
        "digests": {
            "settings": params.settings_digest(cell),
            "training": f"training of {cell.key}",
            "heads": (heads := head_settings(params, cell)) and heads.digest,
            "scores": SCORES_VERSION,
        },
        "settings": params.training_settings(cell),
        "data": {"source": params.source, "synthetic": synthetic, "notes": [], "test": IMAGES}
        | {"classes": [str(label) for label in range(CLASSES)], "hash": cell.dataset},
        "split": {"hash": f"{cell.dataset} {cell.shots} {cell.seed}", "rule": "random"},
        "timings": dict.fromkeys(("seconds", "train_seconds", "evaluate_seconds", "peak_memory_mb"), 1.0),
        "provenance": {"device": "cpu", "precision": "float32"},
    }


def claim(claims: Collection[Claim], name: str, where: str | None = None) -> Claim:
    (found,) = [c for c in claims if c.id == name and where in (None, c.slice)]
    return found


def cams(cell: Cell, *, empty: int = 2) -> dict[str, Any]:
    """Maps whose overlap falls by 0.2 in every bundle, by a little more in later seeds.

    Args:
        empty: test images, of 60, on which member 0 has an empty map, others for each method; the cosines of
            these images are invented and must not count in either arm.
    """
    fdl = cell.method == "fdl"
    record = invented(members=MEMBERS, tests=IMAGES)
    without = np.zeros((MEMBERS, IMAGES), bool)
    without[0, empty * fdl : empty * (fdl + 1)] = True
    cosines = np.full((3, IMAGES), 0.75 - fdl * (0.25 + cell.seed / 64))
    cosines[:, : 2 * empty][:2] = 0.125 + 0.5 * fdl
    return record | {"cosines": cosines.astype(np.float16), "empty": np.packbits(without, axis=-1)}

"""`bundle.json`: what a bundle was asked to train, and what came of it.

It is the one file of a bundle that Snakemake knows. A receipt says itself what was asked for: one that
came with imported records has no entry in Snakemake's own memory, and would hide every later change.
"""

import json
from collections.abc import Sequence
from typing import Any

from fdl import layout, records
from fdl.head_settings import head_settings
from fdl.params import Bundle, Cell, Params
from fdl.provenance import SCORES_VERSION


def asked_for(params: Params, cells: Sequence[Cell]) -> list[Any]:
    """What decides the records of a bundle: versions and digests of settings, of heads where there are any."""
    heads = [head_settings(params, cell) for cell in cells]
    return [
        SCORES_VERSION,
        *(params.settings_digest(cell) for cell in cells),
        *(head.digest for head in heads if head),
    ]


def write_receipt(params: Params, bundle: Bundle, cells: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Write a bundle's receipt: every cell has its record.

    Args:
        cells: "digest" (of the training) and "status" by the cells' keys.

    Returns:
        Its content.
    """
    receipt = {"bundle": bundle.key, "cells": cells, "asked": asked_for(params, params.bundles()[bundle])}
    records.write_atomically(layout.bundle_file(params, bundle), records.to_json(receipt))
    return receipt


def remove_outdated(params: Params) -> None:
    """Remove receipts that hide work: of a bundle whose record was deleted, or that was asked for something else."""
    for bundle, cells in params.bundles().items():
        path = layout.bundle_file(params, bundle)
        try:
            asked = json.loads(path.read_bytes()).get("asked")
        except FileNotFoundError:
            continue
        except (ValueError, AttributeError):
            path.unlink()
            continue
        complete = all((layout.record_folder(params, cell) / "run.json").exists() for cell in cells)
        # Receipts of earlier versions do not say; those Snakemake wrote down itself.
        if not complete or (asked is not None and asked != asked_for(params, cells)):
            path.unlink(missing_ok=True)

"""Registers a trained ensemble in MLflow's model registry, from a record (folder of results) with kept weights."""

import re
import shutil
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fdl.core.errors import InputError
from fdl.core.settings import digest
from fdl.results import records
from fdl.tracking.store import Store, create_run, opened
from fdl.training.inference import Ensemble, load_ensemble
from fdl.training.predictions import weights_file

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

EXPERIMENT = "fdl-models"
DIGEST_TAG = "fdl.digest"
_SCRIPT = Path(__file__).with_name("pyfunc_model.py")
# The packages that loading and predicting import. The code of fdl itself is stored with the model.
_PACKAGES = ("mlflow", "numpy", "pandas", "pillow", "pydantic", "pyyaml", "safetensors", "torch")


@dataclass(frozen=True)
class Registered:
    """A version of a model in the registry."""

    name: str
    version: str
    new: bool  # False if the same weights had already been registered under this name


def register(record: Path, name: str, *, selection: str | None = None, uri: str | None = None) -> Registered:
    """Register the ensemble of a record as a pyfunc model: uint8 images (N, H, W, 3) → class, probability, votes.

    The model holds `run.json`, the weights and the code of fdl. It resizes images of any size in the same way as the
    training images. The same weights are registered only once under a name.

    Args:
        record: folder of a record with kept weights.
        name: name of the model in the registry.
        selection: rule that picked the epoch of the weights; None: the first one, which the main tables use.
        uri: MLflow's tracking URI; None: as in `fdl.tracking.store.opened`.

    Raises:
        InputError: the name is not allowed, the record has no weights, or the store cannot be reached or written.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}", name):
        raise InputError(
            f"model name {name!r}: a name is of at most 100 letters, digits, spaces, dots, dashes and underscores"
        )
    ensemble = load_ensemble(record, selection)
    run = records.read_run(record)
    assert run is not None
    rule = selection or run["settings"]["selections"][0]
    content = digest([run["digests"], rule, run["files"][weights_file(rule)]])
    with opened(uri, on_failure="nothing was registered") as store:
        for known in store.client.search_model_versions(f"name = '{name}'"):
            if known.tags.get(DIGEST_TAG) == content:
                return Registered(name, str(known.version), new=False)
        number = _log(store, record, run, rule, ensemble, name)
        store.client.set_model_version_tag(name, number, DIGEST_TAG, content)
    return Registered(name, number, new=True)


def _log(store: Store, record: Path, run: dict[str, Any], rule: str, ensemble: Ensemble, name: str) -> str:
    """Log the model to a run of its own and register it; return its version in the registry."""
    import mlflow

    tags = {**run["cell"], "selection": rule, "source": run["data"]["source"], "synthetic": run["data"]["synthetic"]}
    run_id = create_run(store.client, store.experiment(EXPERIMENT).experiment_id, f"{run['key']} {rule}", tags)
    mlflow.set_tracking_uri(store.uri)
    with tempfile.TemporaryDirectory() as folder, mlflow.start_run(run_id=run_id):
        kept = Path(folder) / "record"
        kept.mkdir()
        for file in ("run.json", weights_file(rule)):
            shutil.copyfile(record / file, kept / file)
        code = Path(folder) / "fdl"
        shutil.copytree(_SCRIPT.parents[1], code, ignore=shutil.ignore_patterns("__pycache__"))
        logged = mlflow.pyfunc.log_model(
            name="ensemble",
            python_model=str(_SCRIPT),
            artifacts={"record": str(kept)},
            model_config={"selection": rule},
            code_paths=[str(code)],
            signature=_signature(ensemble),
            input_example=np.zeros((1, ensemble.size, ensemble.size, 3), np.uint8),
            pip_requirements=[f"{package}=={version(package)}" for package in _PACKAGES],
            registered_model_name=name,
        )
    return str(logged.registered_model_version)


def _signature(ensemble: Ensemble) -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    votes = [ColSpec(DataType.string, f"member{member}") for member in range(len(ensemble.nets))]
    return ModelSignature(
        Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))]),
        Schema([ColSpec(DataType.string, "class"), ColSpec(DataType.double, "probability"), *votes]),
    )

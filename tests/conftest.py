"""Shared fixtures."""

import os
import shutil

# One thread per process, here and in the processes that tests start: several run side by side, and
# the order of a sum depends on the number of threads.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project folder, the working directory of the test; no data, no GPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for name in ("FDL_DATA_DIR", "FDL_GPU_SLOTS", "FDL_MIRROR", "FDL_OFFLINE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory):
    """A project whose tiny bundle is trained, with weights."""
    from fdl.data.prepare import prepare
    from fdl.data.splits import write_split
    from fdl.training.bundle import run_bundle
    from tests.projects import tiny, write_images, write_params

    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        params = tiny(keep_weights=True)
        write_params(folder / "params.yaml")
        write_images()
        prepare(params, "bsd", say=lambda line: None)
        for draw in params.seeds:
            write_split(params, "bsd", 3, draw)
        for bundle in params.bundles():
            run_bundle(params, bundle, say=lambda line: None)
    return folder


@pytest.fixture
def trained(trained_once, project):
    """A copy of it, the working directory of the test; its settings."""
    from tests.projects import tiny

    shutil.copytree(trained_once, project, dirs_exist_ok=True)
    return tiny()


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """A database with MLflow's tables and nothing in them: made once, it takes seconds."""
    from fdl.tracking.store import opened

    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with opened(f"sqlite:///{file}", on_failure="no test can run"):
        pass
    return file


@pytest.fixture
def uri(empty_database, tmp_path, monkeypatch):
    """URI of a database of this test alone, in the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_database, "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture(autouse=True)
def denormals():
    """A bundle that is run inside a test switches denormals off for the whole process."""
    yield
    torch.set_flush_denormal(False)

"""Shared fixtures."""

import os

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


@pytest.fixture(autouse=True)
def denormals():
    """A bundle that is run inside a test switches denormals off for the whole process."""
    yield
    torch.set_flush_denormal(False)

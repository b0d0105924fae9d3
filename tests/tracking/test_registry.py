"""A registered ensemble: loaded elsewhere, it predicts what `fdl predict` does."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fdl.core import layout
from fdl.core.errors import InputError
from fdl.core.settings import Cell
from fdl.tracking.registry import register
from tests.projects import ROOT

FDL = Cell("bsd", "alexnet", 3, "fdl", 0)
# In another process and folder, without the project's code on its path.
LOAD = """
import json, sys
import mlflow, numpy as np
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
predicted = model.predict(np.load(sys.argv[3]))
import fdl
print(json.dumps({"code": fdl.__file__, "rows": predicted.to_dict("records")}))
"""


def test_it_is_registered_once_and_predicts_elsewhere(trained, tmp_path_factory):
    record = layout.record_folder(trained, FDL)
    uri = f"sqlite:///{Path('store.db').resolve()}"
    first = register(record, "pitting", uri=uri)
    assert (first.version, first.new) == ("1", True)
    again = register(record, "pitting", uri=uri)
    assert (again.version, again.new) == ("1", False)

    files = sorted(Path("images/bsd/test").rglob("*.png"))
    np.save("images.npy", np.stack([np.asarray(Image.open(path)) for path in files]))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    loaded = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD, uri, "models:/pitting/1", str(Path("images.npy").resolve())],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert loaded.returncode == 0, loaded.stderr
    content = json.loads(loaded.stdout.splitlines()[-1])
    assert not Path(content["code"]).is_relative_to(ROOT), "the code is kept with the model"

    command = [sys.executable, "-m", "fdl", "predict", str(record), "images/bsd/test"]
    predicted = subprocess.run(
        command, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    rows = list(csv.DictReader(predicted.stdout.splitlines()))
    assert [row.pop("file") for row in rows] == [path.relative_to("images/bsd/test").as_posix() for path in files]
    assert [row | {"probability": f"{row['probability']:.6f}"} for row in content["rows"]] == rows


def test_a_record_without_weights_registers_nothing(trained):
    record = layout.record_folder(trained, FDL)
    with pytest.raises(InputError, match="holds no weights of selection 'own'"):
        register(record, "pitting", selection="own", uri="sqlite:///store.db")
    assert not Path("store.db").exists()


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "it's", "x" * 200, "a\nb", " a"])
def test_a_name_that_no_model_can_have_is_refused(trained, name):
    with pytest.raises(InputError, match=r"^model name .*: a name is of at most 100 letters") as error:
        register(layout.record_folder(trained, FDL), name, uri="sqlite:///store.db")
    assert "\n" not in str(error.value)
    assert not Path("store.db").exists()


def test_a_store_out_of_reach_is_one_line(trained, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(InputError, match="the tracking server does not answer; nothing was registered"):
        register(layout.record_folder(trained, FDL), "pitting", uri="http://127.0.0.1:9")

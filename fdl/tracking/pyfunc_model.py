"""The script that MLflow executes to load a registered ensemble.

`fdl.tracking.registry` passes its path to MLflow, which stores a copy with the model, so that nothing is pickled. No
other module imports it.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from fdl.training.inference import as_row, load_ensemble


class RegisteredEnsemble(PythonModel):
    """The ensemble of a record: uint8 images (N, H, W, 3) of any size → a table with a row per image."""

    def load_context(self, context: Any) -> None:
        """Load the members from the registered record."""
        self.ensemble = load_ensemble(Path(context.artifacts["record"]), context.model_config["selection"])

    # The type is plain `np.ndarray`, because MLflow would try to derive a schema from one with an element type, fail,
    # and warn. The model has an explicit signature anyway.
    def predict(self, context: Any, model_input: np.ndarray, params: Any = None) -> pd.DataFrame:
        """Class, probability and the members' votes for each image, in the columns of `fdl predict` but `file`."""
        images = [self.ensemble.decode(image, f"image {number}") for number, image in enumerate(model_input)]
        names = [str(number) for number in range(len(images))]
        rows = [as_row(prediction) for prediction in self.ensemble.predict(names, images)]
        return pd.DataFrame(rows).drop(columns="file")


set_model(RegisteredEnsemble())

"""What MLflow runs when a registered ensemble is loaded: it keeps this file as it is, nothing is pickled.

Only for MLflow, which executes it; `fdl.tracking.registry` names it.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from fdl.training.inference import as_row, load_ensemble


class RegisteredEnsemble(PythonModel):
    """An ensemble of a record: uint8 images (N, H, W, 3) of any size → a row per image."""

    def load_context(self, context: Any) -> None:
        """Load the members from the record that was registered."""
        self.ensemble = load_ensemble(Path(context.artifacts["record"]), context.model_config["selection"])

    # The bare class: of arrays with a type of elements MLflow would make a schema, fail, and warn. It has a signature.
    def predict(self, context: Any, model_input: np.ndarray, params: Any = None) -> pd.DataFrame:
        """Class, probability and the members' votes; the columns are those of `fdl predict`."""
        images = [self.ensemble.decode(image, f"image {number}") for number, image in enumerate(model_input)]
        names = [str(number) for number in range(len(images))]
        rows = [as_row(prediction) for prediction in self.ensemble.predict(names, images)]
        return pd.DataFrame(rows).drop(columns="file")


set_model(RegisteredEnsemble())

"""The trained model as MLflow serves it: code and tensors, no pickle.

MLflow copies this file beside the model folder and runs it on `mlflow.pyfunc.load_model(...)`. It is not imported
by the package.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

DEFAULTS = {"n": 1000, "seed": 0, "temperature": 1.0, "attempts": 32, "rounds": 0}


class Sampler(PythonModel):
    """`predict` draws molecules from a molvae model folder."""

    def load_context(self, context: Any) -> None:
        """Open the model folder that was logged with this file."""
        import molvae

        self.model = molvae.load(context.artifacts["model"])

    def predict(self, context, model_input, params=None):  # MLflow refuses type hints other than list[...]
        """Draw molecules.

        Args:
            model_input: one row with any of the columns n (default 1000), seed (0), temperature (1.0), attempts (32),
                rounds (0).
        Returns:
            A table of n rows with the column `smiles`; the same request gives the same rows.
        Raises:
            ValueError: there is more than one row.
        """
        table = pd.DataFrame([model_input] if isinstance(model_input, dict) else model_input)
        if len(table) > 1:
            raise ValueError(f"predict takes one row (columns {', '.join(DEFAULTS)}, all optional), got {len(table)}.")
        row = table.iloc[0].dropna() if len(table) else {}
        asked = {name: type(default)(row.get(name, default)) for name, default in DEFAULTS.items()}
        return pd.DataFrame({"smiles": self.model.sample(asked.pop("n"), **asked)})


set_model(Sampler())

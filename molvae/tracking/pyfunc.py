"""The trained model as an MLflow model: code and tensors, no pickle.

MLflow copies this file beside the model folder and runs it in `mlflow.pyfunc.load_model(...)`. The package does not
import it.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

DEFAULTS: dict[str, Any] = {"n": 1000, "seed": 0, "temperature": 1.0, "max_tries": 32, "mcmc_steps": 0}


class Sampler(PythonModel):
    """An MLflow model whose `predict` samples molecules from a molvae model folder."""

    def load_context(self, context: Any) -> None:
        """Load the model folder that was logged with this file."""
        import molvae

        self.model = molvae.load(context.artifacts["model"])

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # MLflow takes only list[...]
        """Sample molecules.

        Args:
            context: of MLflow.
            model_input: one row with any of the columns n (default 1000), seed (0), temperature (1.0), max_tries (32),
                mcmc_steps (0).
            params: of MLflow; not used.

        Returns:
            a table of n rows with the column `smiles`; the same request gives the same rows.

        Raises:
            ValueError: there is more than one row.
        """
        table = pd.DataFrame([model_input] if isinstance(model_input, dict) else model_input)
        if len(table) > 1:
            raise ValueError(f"predict takes one row (columns {', '.join(DEFAULTS)}, all optional), got {len(table)}.")
        row = table.iloc[0].dropna() if len(table) else {}
        options = {name: type(default)(row.get(name, default)) for name, default in DEFAULTS.items()}
        return pd.DataFrame({"smiles": self.model.sample(options.pop("n"), **options)})


set_model(Sampler())

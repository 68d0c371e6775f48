"""Binary logistic regression as a PyTorch Lightning experiment project.

The public names are imported when they are first used, so that `import lr_lightning` costs next to nothing.

The exact solver is `lr_lightning.solver.SubsampledNewton`; what a fit has to say is a
`lr_lightning.statistics.report.Report`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lr_lightning.version import __version__

if TYPE_CHECKING:
    from lr_lightning.data.schema import TableSchema
    from lr_lightning.errors import InputError
    from lr_lightning.model.linear_sigmoid import LinearSigmoid
    from lr_lightning.serving.predictor import Predictor, load
    from lr_lightning.sklearn import LogisticRegressionClassifier as LogisticRegressionClassifier
    from lr_lightning.sklearn_cv import LogisticRegressionClassifierCV as LogisticRegressionClassifierCV
    from lr_lightning.training.data_modules import HoursDataModule, TableDataModule, TensorDataModule
    from lr_lightning.training.module import LogisticRegression

_MODULE_OF = {
    "HoursDataModule": "training.data_modules",
    "InputError": "errors",
    "LinearSigmoid": "model.linear_sigmoid",
    "LogisticRegression": "training.module",
    "LogisticRegressionClassifier": "sklearn",
    "LogisticRegressionClassifierCV": "sklearn_cv",
    "Predictor": "serving.predictor",
    "TableDataModule": "training.data_modules",
    "TableSchema": "data.schema",
    "TensorDataModule": "training.data_modules",
    "load": "serving.predictor",
}

# The scikit-learn estimators are not among them: they need an extra, without which `import *` would fail.
__all__ = [
    "HoursDataModule",
    "InputError",
    "LinearSigmoid",
    "LogisticRegression",
    "Predictor",
    "TableDataModule",
    "TableSchema",
    "TensorDataModule",
    "__version__",
    "load",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        from importlib import import_module

        return getattr(import_module(f"lr_lightning.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULE_OF})

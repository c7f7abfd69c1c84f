"""Callbacks that show and record a run, one file each. MLflow is in `callbacks.mlflow`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

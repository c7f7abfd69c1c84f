"""Loads a registered model: MLflow copies this file into the model and runs it."""

from mlflow.models import set_model

from cv_lightning.tracking.policy_model import PolicyModel

set_model(PolicyModel())

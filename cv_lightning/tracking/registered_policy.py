"""MLflow copies this file into a registered model, and runs it to load the model."""

from mlflow.models import set_model

from cv_lightning.tracking.policy_model import PolicyModel

set_model(PolicyModel())

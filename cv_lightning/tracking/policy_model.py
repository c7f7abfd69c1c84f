"""An exported policy as an MLflow model: it answers questions about images, with its tools."""

from __future__ import annotations

import argparse
import json
import threading
from typing import Any

from mlflow.models import ModelSignature
from mlflow.pyfunc import PythonModel, PythonModelContext
from mlflow.types.schema import ColSpec, ParamSchema, ParamSpec, Schema

from cv_lightning.data.rows import open_image
from cv_lightning.data.sources.formats import decode_image
from cv_lightning.driver import roll_out
from cv_lightning.rollout import Sampling
from cv_lightning.serving.command import add_policy_options, load_policy
from cv_lightning.types import Sample, Trajectory
from cv_lightning.viewer.recording import describe, image_name
from sandbox import ToolExecutor

#: Name of the policy's folder among the artifacts of the model.
ARTIFACT = "policy"

#: An image is the base64 text of its file, or a data URI; `turns` is JSON, as docs/trajectories.md describes it.
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec("string", "question"), ColSpec("string", "image")]),
    outputs=Schema(
        [ColSpec("string", "answer", required=False), ColSpec("string", "stop_reason"), ColSpec("string", "turns")]
    ),
    params=ParamSchema(
        [
            ParamSpec("temperature", "double", 0.0),
            ParamSpec("max_new_tokens", "long", 1024),
            ParamSpec("max_turns", "long", 4),
            ParamSpec("seed", "long", 0),
        ]
    ),
)


class PolicyModel(PythonModel):  # type: ignore[misc]  # mlflow has no types
    """Answers a table of questions; the policy's code runs in the sandbox, as in every rollout."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the weights onto an accelerator if there is one.

        Raises:
            CVLightningError: The folder holds no policy.
        """
        options = argparse.ArgumentParser()
        add_policy_options(options)
        self._policy = load_policy(options.parse_args(["--policy", context.artifacts[ARTIFACT]]))
        self._executor = ToolExecutor()
        self._lock = threading.Lock()  # a server predicts in several threads

    def predict(
        self, context: PythonModelContext, model_input: Any, params: dict[str, Any] | None = None
    ) -> list[dict[str, str | None]]:
        """Answer each row's question.

        Args:
            context: MLflow's context.
            model_input: A data frame of `question` and `image`, see `SIGNATURE`.
            params: `temperature` (0 takes the most probable token), `max_new_tokens` per turn, `max_turns`, `seed`.

        Returns:
            For each row, in order: `answer` (None if none was given), `stop_reason` and `turns`.

        Raises:
            DataError: The image of a row cannot be read.
            ConversationError: A question does not fit into the context.
        """
        settings = {spec.name: spec.default for spec in SIGNATURE.params} | (params or {})
        sampling = Sampling(settings["temperature"], settings["max_new_tokens"], settings["seed"])
        rows = zip(model_input["question"], model_input["image"], strict=True)
        samples = [_sample(index, *row) for index, row in enumerate(rows)]
        with self._lock:
            groups = roll_out(samples, self._policy, self._executor, sampling, max_turns=settings["max_turns"])
        return [_answer(group.trajectories[0]) for group in groups]


def _sample(index: int, question: str, image: str) -> Sample:
    where = f"row {index}"
    return Sample(where, question, (open_image(decode_image(image, where), where),), answer="")


def _answer(trajectory: Trajectory) -> dict[str, str | None]:
    reason = trajectory.stop_reason
    turns = json.dumps(describe(trajectory, image_name)["turns"])
    return {"answer": trajectory.answer, "stop_reason": reason.value if reason else "", "turns": turns}

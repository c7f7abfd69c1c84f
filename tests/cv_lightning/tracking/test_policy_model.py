"""The model that MLflow serves, without MLflow's server: its settings, and rows that it cannot read."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from cv_lightning.driver import roll_out
from cv_lightning.errors import DataError
from cv_lightning.rollout import Sampling
from cv_lightning.tracking.policy_model import ARTIFACT, SIGNATURE, PolicyModel
from cv_lightning.types import Sample
from tests.modules.helpers import noise, small_policy

QUESTIONS = ["Read.", "Which color?"]


def encoded(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PolicyModel]:
    folder = tmp_path_factory.mktemp("policy")
    small_policy().export(folder)
    model = PolicyModel()
    model.load_context(SimpleNamespace(artifacts={ARTIFACT: str(folder)}))
    yield model
    model._executor.close()


def asked(model: PolicyModel, images: list[str], **params: Any) -> list[dict[str, Any]]:
    return model.predict(None, {"question": QUESTIONS, "image": images}, params or None)


@pytest.mark.parametrize("params", [{}, {"temperature": 1.0, "seed": 5, "max_new_tokens": 9}])
def test_settings_that_are_not_given_are_those_of_the_signature(model: PolicyModel, params: dict[str, Any]) -> None:
    image = noise()
    settings = {spec.name: spec.default for spec in SIGNATURE.params} | params
    sampling = Sampling(settings["temperature"], settings["max_new_tokens"], settings["seed"])
    samples = [Sample(str(index), question, (image,), "") for index, question in enumerate(QUESTIONS)]
    groups = roll_out(samples, model._policy, model._executor, sampling, max_turns=settings["max_turns"])
    expected = [[turn.text for turn in group.trajectories[0].turns] for group in groups]
    plain, by_uri = encoded(image), f"data:image/png;base64,{encoded(image)}"
    answers = asked(model, [plain, by_uri], **params)
    assert [[turn["text"] for turn in json.loads(answer["turns"])] for answer in answers] == expected
    assert {answer["stop_reason"] for answer in answers} == {
        reason.value for group in groups if (reason := group.trajectories[0].stop_reason) is not None
    }


def test_an_image_that_cannot_be_read_names_its_row(model: PolicyModel) -> None:
    with pytest.raises(DataError, match=r"row 1: .*base64"):
        asked(model, [encoded(noise()), "/etc/passwd!"])
    with pytest.raises(DataError, match="row 1"):
        asked(model, [encoded(noise()), base64.b64encode(b"no image").decode()])

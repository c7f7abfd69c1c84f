"""A run's policy as a registered model: it answers like the policy, and the run stays as it was."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from callbacks.mlflow.logger import BackgroundMLflowLogger
from cv_lightning.driver import roll_out
from cv_lightning.errors import ConfigError
from cv_lightning.rollout import Sampling
from cv_lightning.tracking.command import main
from cv_lightning.types import Sample
from sandbox import ToolExecutor
from tests.modules.helpers import small_policy


def encoded(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_a_registered_policy_answers_as_the_policy_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import mlflow
    from mlflow.tracking import MlflowClient

    policy = small_policy()
    policy.export(tmp_path / "rl" / "policy")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    logger = BackgroundMLflowLogger("plates", "rl", uri, folder=tmp_path / "rl", flush_s=120)
    logger.log_metrics({"train/loss": 1.0}, 6)
    logger.log_metrics({"test/accuracy/mean": 0.75}, 7)
    logger.finalize("success")
    client = MlflowClient(uri)
    assert logger.run_id is not None
    before = client.get_run(logger.run_id)

    assert main([str(tmp_path / "rl"), "--name", "reader"]) == 0
    assert "models:/reader/1" in capsys.readouterr().out
    after = client.get_run(logger.run_id)
    assert (after.info.status, after.info.end_time) == ("FINISHED", before.info.end_time)
    version = client.get_model_version("reader", "1")
    assert version.run_id == logger.run_id
    (logged,) = client.search_logged_models([after.info.experiment_id])
    assert [(one.key, one.value) for one in logged.metrics] == [("test/accuracy/mean", 0.75)]
    assert len(list((tmp_path / "mlartifacts").rglob("*.safetensors"))) == 1

    image = Image.new("RGB", (56, 56), "red")
    model = mlflow.pyfunc.load_model("models:/reader/1")
    rows = [{"question": question, "image": encoded(image)} for question in ("Read.", "Which color?")]
    answers = model.predict(rows, params={"max_new_tokens": 12, "max_turns": 2})
    samples = [Sample("", row["question"], (image,), "") for row in rows]
    with ToolExecutor(lane="pillow") as executor:
        groups = roll_out(samples, policy.eval(), executor, Sampling(0.0, 12), max_turns=2)
    for answer, group in zip(answers, groups, strict=True):
        (expected,) = group.trajectories
        assert answer["answer"] == expected.answer
        assert answer["stop_reason"] == (expected.stop_reason and expected.stop_reason.value)
        assert [turn["text"] for turn in json.loads(answer["turns"])] == [turn.text for turn in expected.turns]


def test_a_folder_without_policy_run_or_store_ends_in_one_line(tmp_path: Path) -> None:
    arguments = [str(tmp_path), "--name", "reader"]
    with pytest.raises(ConfigError, match="not an exported policy"):
        main(arguments)
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "conversation.json").touch()
    with pytest.raises(ConfigError, match="no run logged to MLflow"):
        main(arguments)
    note = {"tracking_uri": f"sqlite:///{tmp_path}/gone.db", "run_id": None}
    (tmp_path / "mlflow_run.json").write_text(json.dumps(note), encoding="utf-8")
    with pytest.raises(ConfigError, match="has not reached MLflow"):
        main(arguments)
    (tmp_path / "mlflow_run.json").write_text(json.dumps(note | {"run_id": "a" * 32}), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"gone\.db"):
        main(arguments)
    with pytest.raises(ConfigError, match="tracking_uri: expected a server"):
        main([*arguments, "--tracking-uri", "http://:0"])


def test_its_help_imports_neither_torch_nor_mlflow() -> None:
    code = (
        "import sys; from cv_lightning.tracking.command import parse\n"
        "try: parse(['--help'])\n"
        "except SystemExit: print(sorted({'torch', 'mlflow', 'lightning'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")

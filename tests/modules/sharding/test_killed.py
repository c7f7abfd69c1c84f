"""Processes of a sharded run that are killed: all of them, or one alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.modules.helpers import small_policy

ROOT = Path(__file__).parents[3]
N_STEPS = 6
BLOCK = """\
trainer:
  accelerator: cpu
  devices: 2
  logger: false
  enable_model_summary: false
  callbacks:
    - class_path: callbacks.ExportPolicy
    - class_path: callbacks.LastCheckpoint
      init_args: {every_seconds: 0, every_steps: 1}
"""

#: Rewards short replies, because a policy with random weights is never right.
PAID = ["--model.reward.overlong=1", "--model.reward.overlong_max_tokens=8", "--model.reward.overlong_cache_tokens=8"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


class Run:
    """`fit` of the tiny RL stage on two processes, in its own session."""

    def __init__(self, folder: Path, *options: str, max_steps: int = N_STEPS) -> None:
        self.folder = folder
        if not (folder / "sft").exists():
            policy = small_policy()
            policy.causal.lm_head.weight.data[policy.conversation.end_of_turn_id] *= 5  # replies of several lengths
            policy.export(folder / "sft" / "policy")
            (folder / "block.yaml").write_text(BLOCK)
        files = [ROOT / "experiments/tiny/rl.yaml", ROOT / "experiments/sharded.yaml", folder / "block.yaml"]
        command = [sys.executable, "-m", "cv_lightning", "fit", *(f"--config={file}" for file in files)]
        command += [f"--run_folder={folder}", f"--trainer.max_steps={max_steps}", "--data.batch_size=2"]
        command += ["--model.rollout.max_new_tokens=8", "--model.micro_batch_tokens=300", *PAID, *options]
        self.errors = (folder / "errors.txt").open("w+")
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stderr=self.errors, stdout=subprocess.DEVNULL, start_new_session=True
        )

    @property
    def link(self) -> Path:
        return self.folder / "rl" / "checkpoints" / "last.ckpt"

    def wait(self) -> int:
        return self.process.wait(1200)

    def wait_for_step(self, step: int) -> None:
        """Wait until a checkpoint of this step or a later one is complete."""
        while not self.link.exists() or int(self.link.resolve().name.rpartition("-")[2]) < step:
            assert self.process.poll() is None, self.said()
            time.sleep(0.02)

    def said(self) -> str:
        self.errors.seek(0)
        return self.errors.read()

    def second_process(self) -> int:
        """The process id of the rank that Lightning started."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        ranks = [int(child) for child in children if b"\0LOCAL_RANK=1\0" in Path(f"/proc/{child}/environ").read_bytes()]
        return ranks[0]

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.errors.close()


def test_a_run_that_is_killed_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole, cut = Run(tmp_path / "whole"), Run(tmp_path / "cut")
    try:
        cut.wait_for_step(3)
        os.killpg(cut.process.pid, signal.SIGKILL)
        assert cut.process.wait() == -signal.SIGKILL
        assert not (cut.folder / "rl" / "policy").exists(), "it was killed too late"
        cut = Run(tmp_path / "cut", f"--ckpt_path={cut.link}")
        assert cut.wait() == 0, cut.said()
        assert whole.wait() == 0, whole.said()
    finally:
        whole.end()
        cut.end()
    start = load_file(whole.folder / "sft" / "policy" / "model.safetensors")
    expected, actual = (load_file(run.folder / "rl" / "policy" / "model.safetensors") for run in (whole, cut))
    assert expected.keys() == actual.keys()
    assert not all(expected[name].equal(value) for name, value in start.items()), "nothing was learned"
    assert [name for name, value in expected.items() if not value.equal(actual[name])] == []


@pytest.mark.parametrize(
    "killed", [Run.second_process, lambda run: run.process.pid], ids=["the second process", "the first process"]
)
def test_a_process_that_dies_alone_ends_the_run_in_one_line(killed: Callable[[Run], int], tmp_path: Path) -> None:
    run = Run(tmp_path, max_steps=10_000)
    try:
        run.wait_for_step(1)
        victim, other = killed(run), run.second_process()
        os.kill(victim, signal.SIGKILL)
        status = run.wait()
        while victim != other and Path(f"/proc/{other}").exists():  # no other process waits for it
            time.sleep(0.1)
        said = [line for line in run.said().splitlines() if line.startswith(("error", "Traceback"))]
    finally:
        run.end()
    assert status == (1 if victim == other else -signal.SIGKILL)
    (line,) = said
    assert line.startswith("error: A process of this run has ended or does not answer (")
    assert f"Continue with --ckpt_path {run.link}." in line
    assert (run.link / ".metadata").exists()

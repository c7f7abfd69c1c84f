"""Processes of a sharded run that never become a group."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from lightning import Trainer

from cv_lightning.errors import TrainingError
from modules.sft import SFTModule
from modules.sharding.strategy import ShardedStrategy
from tests.modules.helpers import small_policy
from tests.modules.sharding.helpers import Rows, on_ranks


def wait_for_a_first_process(folder: Path) -> None:
    os.environ |= {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    strategy = ShardedStrategy(start_timeout_s=2)
    trainer = Trainer(accelerator="cpu", devices=2, strategy=strategy, logger=False, default_root_dir=folder)
    with pytest.raises(
        TrainingError, match=r"trainer\.strategy: expected 2 processes within 2 s, but one did not start"
    ):
        trainer.fit(SFTModule(small_policy()), Rows([]))  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_process_that_starts_alone_ends_in_one_line(tmp_path: Path) -> None:
    on_ranks(1, wait_for_a_first_process, tmp_path)

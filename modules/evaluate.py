"""Tests any policy on any source: asks under every condition, saves every answer, and writes one table."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from cv_lightning.console.versions import versions
from cv_lightning.errors import CheckpointError, ConfigError, ConversationError, CVLightningError
from cv_lightning.evaluation.asking import Asker
from cv_lightning.evaluation.page import print_table, write_page
from cv_lightning.evaluation.questions import EvaluationItem
from cv_lightning.evaluation.table import make_table, write_results
from cv_lightning.grading.benchmarks import find_rule
from cv_lightning.grading.judge import Judge
from cv_lightning.solver import Solver
from cv_lightning.types import Sample, Trajectory
from modules.policy.policy import Policy
from modules.policy.shards import whole
from modules.rollouts import Roller, RolloutConfig
from modules.samplers.sampler import Sampler


class LocalSolver(nn.Module, Solver):
    """A policy whose weights are in this process.

    Args:
        policy: The policy.
        rollout: How trajectories are sampled; the temperature is its `evaluation_temperature`.
        seed: Seed of the sampling, if the temperature is not 0.
        tools: Whether the policy may call tools; if not, it answers in one turn and cannot begin a call.
        sampler: Samples the turns, such as `modules.samplers.VLLM`; None: the policy itself.
    """

    def __init__(
        self,
        policy: Policy,
        rollout: RolloutConfig | None = None,
        seed: int = 0,
        tools: bool = True,
        sampler: Sampler | None = None,
    ) -> None:
        super().__init__()
        self.policy = policy
        self.rollout_config = rollout or RolloutConfig()
        self.seed = seed
        self.tools = tools
        config = self.rollout_config if tools else replace(self.rollout_config, max_turns=1)
        self._roller = Roller(policy, config, sampler)
        self._is_refreshed = False

    def refresh(self) -> None:
        """Give the sampler the weights, once; all ranks call it together. `solve` calls it if nothing else did."""
        if not self._is_refreshed:
            self._roller.refresh()
            self._is_refreshed = True

    def fingerprint(self) -> str:
        """A hash of the weights and of everything else that decides the answers."""
        config, processor = self.rollout_config, self.policy.image_processor
        settings = {
            "weights": weights_digest(self.policy),
            "system_prompt": self.policy.conversation.system_prompt,
            "max_context_tokens": self.policy.conversation.max_context_tokens,
            "pixels": [processor.size["shortest_edge"], processor.size["longest_edge"]],
            "turns": [config.max_turns, config.max_new_tokens],
            "temperature": config.evaluation_temperature,
            "seed": self.seed if config.evaluation_temperature > 0 else None,
            "tools": [config.lane, asdict(config.limits), self.policy.conversation.toolbox.describe()],
        }
        if config.exactness == "close":  # other pixels
            settings["exactness"] = [config.device, config.exactness]
        if not self._roller.sampler.agrees:  # other log-probabilities, and so other answers
            settings["sampler"] = type(self._roller.sampler).__name__
        if not self.tools:
            settings |= {"turns": [1, config.max_new_tokens], "tools": None}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]

    def solve(self, samples: Sequence[Sample]) -> list[Trajectory | None]:
        """Roll out samples; a sample whose prompt does not fit is left out, with a warning."""
        temperature = self.rollout_config.evaluation_temperature
        self.refresh()
        with nullcontext() if self.tools else self.policy.without_tools():
            fitting = [index for index, sample in enumerate(samples) if self._fits(sample)]
            groups = self._roller.roll_out([samples[index] for index in fitting], 1, temperature, self.seed)
        solved: list[Trajectory | None] = [None] * len(samples)
        for index, group in zip(fitting, groups, strict=True):
            solved[index] = group.trajectories[0]
        return solved

    def _fits(self, sample: Sample) -> bool:
        try:
            self.policy.conversation.start(sample)
        except ConversationError as error:
            warnings.warn(f"Left out a question. {error}", UserWarning, stacklevel=2)
            return False
        return True

    def without_tools(self) -> LocalSolver:
        """The same weights, which answer in one turn and cannot begin a call."""
        alone = LocalSolver(self.policy, self.rollout_config, self.seed, False, self._roller.sampler)
        alone._is_refreshed = self._is_refreshed
        return alone

    def close(self) -> None:
        """End the tool workers and the sampler."""
        self._roller.close()
        self._is_refreshed = False


@torch.no_grad()
def weights_digest(module: nn.Module) -> str:
    """A short hash of all weights, the same on every device and for shards, because only integers are added."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        words = _words(whole(tensor.detach()).contiguous().flatten())
        places = torch.arange(1, len(words) + 1, device=words.device, dtype=torch.int64) % 65521
        sums = [int(words.sum()), int((words * places).sum())]
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}{sums}".encode())
    return digest.hexdigest()[:16]


def _words(values: Tensor) -> Tensor:
    """The bits of a flat tensor as integers; their sums wrap around, so they do not depend on the order."""
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    if values.dtype == torch.bool:
        return values.long()
    return values.view(kinds[values.element_size()]).long()


class RobustnessTest(LightningModule):
    """Tests a policy on the items of a `RobustnessDataModule`; there is nothing to train.

    Answers are saved in `trainer.default_root_dir/answers_<rank>.jsonl` as they come; the same command resumes there.
    At the end `results.json`, `results.csv` and `results.html` are written beside them, and every cell of the
    table is logged as `test/<cell>/<condition>`.

    Args:
        solver: The policy to test: `LocalSolver`, or another `Solver`.
        judge: Asked about answers that the rules do not call right; None: only the rules decide.
        rule: Name of a rule in `grading.RULES` that replaces each sample's own rule.
        name: Name of the policy in the tables; None takes its fingerprint.
        compare_without_tools: Ask every question a second time without tools, for the cells `tool_gain`, `tool_harm`
            and `tool_effect`; these answers are saved in the folder `without_tools`.
    """

    def __init__(
        self,
        solver: Solver,
        judge: Judge | None = None,
        rule: str | None = None,
        name: str | None = None,
        compare_without_tools: bool = False,
    ) -> None:
        super().__init__()
        self.solver = solver
        self.judge = judge
        self.rule = rule
        self.name = name
        self.compare_without_tools = compare_without_tools
        self._askers: list[Asker] = []
        self._labels: dict[str, None] = {}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint: only exported policies are tested."""
        raise CheckpointError(
            "ckpt_path: RobustnessTest takes no checkpoint. Set solver.policy.source to the folder that the stage "
            "exported, e.g. runs/tiny/rl/policy."
        )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave samples on the host."""
        return batch

    @property
    def folder(self) -> Path:
        """Where answers and results go."""
        return Path(self.trainer.default_root_dir)

    def on_test_start(self) -> None:
        """Open the log of answers, which may hold earlier answers of this policy."""
        self.trainer.test_loop.verbose = False  # the table says it better than a list of all its cells
        if isinstance(self.solver, LocalSolver):
            self.solver.refresh()
        solvers = {self.folder: self.solver}
        if self.compare_without_tools:
            solvers[self.folder / "without_tools"] = self.solver.without_tools()
        self._askers = [Asker(solver, folder, self.global_rank, self.judge) for folder, solver in solvers.items()]
        self._labels = {}

    def test_step(self, batch: list[EvaluationItem], batch_idx: int) -> None:
        """Ask the questions that the logs do not answer, and log the answers."""
        if not all(isinstance(item, EvaluationItem) for item in batch):
            raise ConfigError("data: expected a cv_lightning.evaluation.RobustnessDataModule for RobustnessTest.")
        if self.rule is not None:
            batch = [replace(item, base=replace(item.base, rule=self.rule)) for item in batch]
        for item in batch:
            find_rule(item.base)  # before anything is asked
        for asker in self._askers:
            asker.ask(batch)
        self._labels |= dict.fromkeys(item.condition.label for item in batch)

    def on_test_epoch_end(self) -> None:
        """Make the table of all ranks' answers, write it, log it, show it."""
        labels, keys, n_asked, usage = self._of_all_ranks()
        is_shared = self.trainer.world_size > 1
        records, *alone = (
            asker.records(of_asker, is_shared) for asker, of_asker in zip(self._askers, keys, strict=True)
        )
        table = make_table(records, labels, without_tools=alone[0] if alone else ())
        metrics = table.metrics() | {f"usage/{name}": value for name, value in usage.items()}
        self.log_dict({f"test/{name}": value for name, value in metrics.items()}, rank_zero_only=True)
        if not self.trainer.is_global_zero:
            return
        fingerprint = self._askers[0].fingerprint
        n_answers = sum(map(len, (records, *alone)))
        facts = {
            "policy": self.name or fingerprint,
            "fingerprint": fingerprint,
            "questions": len(set(keys[0])),
            "asked_now": n_asked,
            "not_answered": sum(len(set(of_asker)) for of_asker in keys) - n_answers,
            "usage": usage,
            "versions": versions(),
        }
        try:
            paths = [*write_results(table, facts, self.folder), write_page(table, facts, self.folder)]
        except OSError as error:
            raise CVLightningError(
                f"{self.folder}: cannot write the results ({error.strerror}). The answers are saved. Fix the cause and "
                "run the same command again. It asks no question twice."
            ) from error
        print_table(table, facts, paths[-1])
        for logger in self.trainer.loggers:
            if hasattr(logger, "log_artifact"):
                for path in [*paths, *sorted(self.folder.glob("answers_*.jsonl"))]:
                    logger.log_artifact(path)

    def _of_all_ranks(self) -> tuple[list[str], list[list[str]], int, dict[str, float]]:
        """Labels, the keys of each asker, the number of questions asked now, and the solver's usage for them."""
        keys = [asker.keys for asker in self._askers]
        n_asked, usage = sum(asker.n_asked for asker in self._askers), self.solver.usage()
        if self.trainer.world_size == 1:
            return list(self._labels), keys, n_asked, usage
        gathered: list[Any] = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(gathered, (list(self._labels), keys, n_asked, usage))
        labels = dict.fromkeys(label for of_rank, *_ in gathered for label in of_rank)
        total = {name: sum(of_rank[name] for *_, of_rank in gathered) for name in usage}
        all_keys = [[key for _, of_rank, *_ in gathered for key in of_rank[place]] for place in range(len(keys))]
        return list(labels), all_keys, sum(n for *_, n, _ in gathered), total

    def teardown(self, stage: str) -> None:
        """Close the solvers."""
        for solver in {id(one): one for one in (self.solver, *(asker.solver for asker in self._askers))}.values():
            solver.close()

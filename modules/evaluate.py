"""`test` of any policy on any source: asked under every condition, every answer kept, one table in the end."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from cv_lightning.console.versions import versions
from cv_lightning.errors import CheckpointError, ConfigError, ConversationError, CVLightningError
from cv_lightning.evaluation.answer_log import AnswerLog, AnswerRecord, grading_key, make_record, of_keys, record_key
from cv_lightning.evaluation.page import print_table, write_page
from cv_lightning.evaluation.questions import EvaluationItem
from cv_lightning.evaluation.table import make_table, write_results
from cv_lightning.grading.benchmarks import Grade, find_rule, grade
from cv_lightning.grading.judge import Judge
from cv_lightning.solver import Solver
from cv_lightning.types import Sample, Trajectory
from modules.policy.policy import Policy
from modules.rollouts import Roller, RolloutConfig

#: Requests to a judge that are under way at the same time.
_JUDGED_AT_ONCE = 16


class LocalSolver(nn.Module, Solver):
    """A policy whose weights are here.

    Args:
        policy: The policy.
        rollout: How trajectories are sampled; `evaluation_temperature` is the one that counts.
        seed: Seed of the sampling, if the temperature is not 0.
    """

    def __init__(self, policy: Policy, rollout: RolloutConfig | None = None, seed: int = 0) -> None:
        super().__init__()
        self.policy = policy
        self.rollout_config = rollout or RolloutConfig()
        self.seed = seed
        self._roller = Roller(policy, self.rollout_config)

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
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]

    def solve(self, samples: Sequence[Sample]) -> list[Trajectory | None]:
        """Roll out samples; one whose prompt does not fit is left out, with a warning."""
        fitting = [index for index, sample in enumerate(samples) if self._fits(sample)]
        temperature = self.rollout_config.evaluation_temperature
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

    def close(self) -> None:
        """End the tool's workers."""
        self._roller.close()


@torch.no_grad()
def weights_digest(module: nn.Module) -> str:
    """A short hash of all weights, the same on every device: only integers are added."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        words = _words(tensor.detach().contiguous().flatten())
        places = torch.arange(1, len(words) + 1, device=words.device, dtype=torch.int64) % 65521
        sums = [int(words.sum()), int((words * places).sum())]
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}{sums}".encode())
    return digest.hexdigest()[:16]


def _words(values: Tensor) -> Tensor:
    """The bits of a flat tensor as whole numbers; sums of them wrap around and so do not depend on their order."""
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    if values.dtype == torch.bool:
        return values.long()
    return values.view(kinds[values.element_size()]).long()


class RobustnessTest(LightningModule):
    """Tests a policy on the items of a `RobustnessDataModule`; there is nothing to train.

    Answers are saved in `trainer.default_root_dir/answers_<rank>.jsonl` as they come; the same command continues there.
    At the end `results.json`, `results.csv` and `results.html` are written beside them, and every cell of the
    table is logged as `test/<cell>/<condition>`.

    Args:
        solver: Who is asked: `LocalSolver`, or another `Solver`.
        judge: Asked about answers that the rules do not call right; None leaves it at the rules.
        rule: A name of `grading.RULES` to compare by, instead of each sample's own.
        name: Name of the policy in the tables; None takes its fingerprint.
    """

    def __init__(
        self, solver: Solver, judge: Judge | None = None, rule: str | None = None, name: str | None = None
    ) -> None:
        super().__init__()
        self.solver = solver
        self.judge = judge
        self.rule = rule
        self.name = name
        self.policy_fingerprint = ""
        self._log_file: AnswerLog | None = None
        self._keys: list[str] = []
        self._labels: dict[str, None] = {}
        self._n_asked = 0

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint: only exported policies are tested."""
        raise CheckpointError(
            "RobustnessTest takes no checkpoint. Give the folder that the stage exported as solver.policy.source, "
            "e.g. runs/tiny/rl/policy."
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
        self.policy_fingerprint = self.solver.fingerprint()
        self._log_file = AnswerLog(self.folder, self.global_rank)
        self._keys, self._labels, self._n_asked = [], {}, 0

    def test_step(self, batch: list[EvaluationItem], batch_idx: int) -> None:
        """Ask the questions that the log does not answer, and log the answers."""
        log = self._log_file
        if log is None or not all(isinstance(item, EvaluationItem) for item in batch):
            raise ConfigError("RobustnessTest: data must be a cv_lightning.evaluation.RobustnessDataModule.")
        if self.rule is not None:
            batch = [replace(item, base=replace(item.base, rule=self.rule)) for item in batch]
        for item in batch:
            find_rule(item.base)  # before anything is asked
        keys = [record_key(item.base, item.condition.label, self.policy_fingerprint) for item in batch]
        items = dict(zip(keys, batch, strict=True))
        known = {key: item for key, item in items.items() if key in log.records}
        log.append(self._ask({key: item for key, item in items.items() if key not in known}))
        log.append(self._grade_again(known, log))
        self._keys += keys
        self._labels |= dict.fromkeys(item.condition.label for item in batch)

    def _ask(self, items: dict[str, EvaluationItem]) -> list[AnswerRecord]:
        if not items:
            return []
        self._n_asked += len(items)
        solved = self.solver.solve([item.sample() for item in items.values()])
        pairs = zip(items.items(), solved, strict=True)
        answered = [(key, item, trajectory) for (key, item), trajectory in pairs if trajectory is not None]
        grades = self._grades([(item.base, trajectory.answer) for _, item, trajectory in answered])
        return [
            make_record(
                key, item.condition.label, self.policy_fingerprint, trajectory, of_answer, self._grading_key(item.base)
            )
            for (key, item, trajectory), of_answer in zip(answered, grades, strict=True)
        ]

    def _grade_again(self, items: dict[str, EvaluationItem], log: AnswerLog) -> list[AnswerRecord]:
        """Grade earlier answers again if the rule, the truth or the judge changed, or if the judge failed."""
        changed = []
        for key, item in items.items():
            record = log.records[key]
            if record.graded_for != self._grading_key(item.base) or record.score is None:
                changed.append((record, item.base))
        grades = self._grades([(base, record.answer) for record, base in changed])
        return [
            replace(
                record,
                score=of_answer.score,
                graded_by=of_answer.by,
                rule=of_answer.rule,
                graded_for=self._grading_key(base),
                truth=base.answer,
            )
            for (record, base), of_answer in zip(changed, grades, strict=True)
        ]

    def _grades(self, answers: Sequence[tuple[Sample, str | None]]) -> list[Grade]:
        # A judge is a server: it is asked about the answers of a batch at once.
        with ThreadPoolExecutor(max_workers=_JUDGED_AT_ONCE if self.judge is not None else 1) as pool:
            return list(pool.map(lambda pair: grade(pair[0], pair[1], self.judge), answers))

    def _grading_key(self, base: Sample) -> str:
        judge = "" if self.judge is None else f"{getattr(self.judge, 'url', '')} {getattr(self.judge, 'model', '')}"
        return grading_key(base, judge)

    def on_test_epoch_end(self) -> None:
        """Make the table of all ranks' answers, write it, log it, show it."""
        log = self._log_file
        if log is None:
            return
        keys, labels, n_asked, usage = self._of_all_ranks()
        records = of_keys(log.read_all() if self.trainer.world_size > 1 else log.records, keys)
        table = make_table(records, labels)
        metrics = table.metrics() | {f"usage/{name}": value for name, value in usage.items()}
        self.log_dict({f"test/{name}": value for name, value in metrics.items()}, rank_zero_only=True)
        if not self.trainer.is_global_zero:
            return
        facts = {
            "policy": self.name or self.policy_fingerprint,
            "fingerprint": self.policy_fingerprint,
            "questions": len(set(keys)),
            "asked_now": n_asked,
            "not_answered": len(set(keys)) - len(records),
            "usage": usage,
            "versions": versions(),
        }
        try:
            paths = [*write_results(table, facts, self.folder), write_page(table, facts, self.folder)]
        except OSError as error:
            raise CVLightningError(
                f"{self.folder}: the results cannot be written ({error.strerror}). The answers are safe: make room and "
                "run the same command again, it asks nothing twice."
            ) from error
        print_table(table, facts, paths[-1])
        for logger in self.trainer.loggers:
            for path in [*paths, *sorted(self.folder.glob("answers_*.jsonl"))]:
                if hasattr(logger, "log_artifact"):
                    logger.log_artifact(path)

    def _of_all_ranks(self) -> tuple[list[str], list[str], int, dict[str, float]]:
        """Keys, labels, the number of questions asked now, and what the solver used for them."""
        usage = self.solver.usage()
        if self.trainer.world_size == 1:
            return self._keys, list(self._labels), self._n_asked, usage
        gathered: list[Any] = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(gathered, (self._keys, list(self._labels), self._n_asked, usage))
        labels = dict.fromkeys(label for _, labels, *_ in gathered for label in labels)
        total = {name: sum(of_rank[name] for *_, of_rank in gathered) for name in usage}
        return [key for keys, *_ in gathered for key in keys], list(labels), sum(n for _, _, n, _ in gathered), total

    def teardown(self, stage: str) -> None:
        """Close the solver."""
        self.solver.close()

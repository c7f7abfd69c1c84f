"""Scoring of rollouts: a group is scored as soon as it has ended, while others continue."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from cv_lightning.grading.judge import AnswerJudge
from cv_lightning.rewards import RewardConfig, score
from cv_lightning.types import Group, RewardBreakdown

#: Number of groups that are judged at the same time.
_JUDGED_AT_ONCE = 16


class Scoring:
    """Scores the groups of one rollout.

    Args:
        config: How trajectories are scored.
        judge: A server that is asked about answers, in threads; None: only the rules decide.
    """

    def __init__(self, config: RewardConfig, judge: AnswerJudge | None = None) -> None:
        self._config = config
        self._judge = judge
        self._pool = ThreadPoolExecutor(_JUDGED_AT_ONCE, thread_name_prefix="judge")
        self._of_group: dict[int, Future[list[RewardBreakdown]]] = {}

    def __enter__(self) -> Scoring:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def begin(self, number: int, group: Group) -> None:
        """Score a group that has ended; returns at once if there is a judge."""
        if self._judge is not None:
            self._of_group[number] = self._pool.submit(score, group, self._config, self._judge)
            return
        scored: Future[list[RewardBreakdown]] = Future()
        scored.set_result(score(group, self._config))
        self._of_group[number] = scored

    def breakdowns(self) -> list[list[RewardBreakdown]]:
        """The rewards of all groups that were passed to `begin`, in the order of their numbers."""
        return [self._of_group[number].result() for number in sorted(self._of_group)]

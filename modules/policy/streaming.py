"""Sampling that tells every token as it is drawn, and may be stopped at any of them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from cv_lightning.chat.talk import OpenSession
from cv_lightning.rollout import Sampling
from modules.policy.generation import GenerationSession
from modules.policy.policy import Policy


class WatchedSession(GenerationSession):
    """A session of one conversation.

    Args:
        policy: Whose tokens are sampled.
        sampling: How.
        on_token: Told every token; returns whether to go on.
    """

    def __init__(self, policy: Policy, sampling: Sampling, on_token: Callable[[int], bool]) -> None:
        super().__init__(policy, sampling)
        self._on_token = on_token

    def _goes_on(self, ids_B: Tensor) -> bool:
        return self._on_token(int(ids_B[0]))


def open_watched(policy: Policy) -> OpenSession:
    """How conversations with a policy open sessions."""
    return lambda sampling, on_token: WatchedSession(policy, sampling, on_token)

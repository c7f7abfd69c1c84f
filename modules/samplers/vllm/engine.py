"""State that the sessions of one process share: the servers, their weights, and their images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from cv_lightning.errors import EngineError
from modules.samplers.vllm.images import EncodedImages
from modules.samplers.vllm.weight_log import WeightLog


@dataclass(frozen=True)
class Patience:
    """How long failures of an engine are tolerated.

    Attributes:
        turn_s: Longest time for one turn, including its wait in the queue; after it, the engine counts as hung.
        away_s: Longest time that it may be unreachable, paused or have other weights, for example during a restart.
        attempts: Requests of one turn that may fail with an error, a broken reply, or no reply within `turn_s`.
    """

    turn_s: float = 600.0
    away_s: float = 900.0
    attempts: int = 4


@dataclass
class Place:
    """A server as its clients see it.

    Attributes:
        url: Its address.
        known: Names of the images that the server has.
        n_conversations: Conversations that were sent to it.
    """

    url: str
    known: set[str] = field(default_factory=set)
    n_conversations: int = 0


@dataclass
class Engine:
    """State that the sessions of one process share.

    Attributes:
        places: The servers.
        weights: The log of their weights.
        images: The images that they get.
        patience: How long their failures are tolerated.
        complain: Called with the place that did not answer in time.
        fault: Why no server will come back; None if servers may come back.
    """

    places: list[Place]
    weights: WeightLog
    images: EncodedImages
    patience: Patience
    complain: Callable[[Place], None] = lambda place: None
    fault: EngineError | None = None

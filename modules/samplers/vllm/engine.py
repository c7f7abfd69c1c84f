"""What the sessions of one process share: the servers, their weights, the images that they get."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from cv_lightning.errors import EngineError
from modules.samplers.vllm.images import EncodedImages
from modules.samplers.vllm.weight_log import WeightLog


@dataclass(frozen=True)
class Patience:
    """How long an engine may be wrong or away.

    Attributes:
        turn_s: Longest time for one turn, its wait in the queue included; then the engine counts as hung.
        away_s: Longest time in which it is unreachable, paused or has other weights, such as while it is restarted.
        attempts: Requests of one turn that may fail with an error, a broken reply, or none within `turn_s`.
    """

    turn_s: float = 600.0
    away_s: float = 900.0
    attempts: int = 4


@dataclass
class Place:
    """A server as its clients see it.

    Attributes:
        url: Its address.
        known: Names of the images that it has.
        n_conversations: Conversations that were sent to it.
    """

    url: str
    known: set[str] = field(default_factory=set)
    n_conversations: int = 0


@dataclass
class Engine:
    """What the sessions of one process share.

    Attributes:
        places: The servers.
        weights: Which weights they have.
        images: The images that they get.
        patience: How long they may be wrong or away.
        complain: Called with the place that did not answer in time.
        fault: Why no server will come back; None while there is hope.
    """

    places: list[Place]
    weights: WeightLog
    images: EncodedImages
    patience: Patience
    complain: Callable[[Place], None] = lambda place: None
    fault: EngineError | None = None

"""Records the weights that an engine was given, and decides which replies are accepted."""

from __future__ import annotations

from dataclasses import dataclass, field

from modules.samplers.vllm.wire import EngineReply


@dataclass(frozen=True)
class Asked:
    """The weights that a request asks for.

    Attributes:
        model: Name of the model or of its adapter.
        label: Label of the engine's weights.
        number: Number of the update that brought them.
    """

    model: str
    label: str
    number: int


@dataclass
class WeightLog:
    """The updates of one run.

    Attributes:
        token: Distinguishes the labels of this run from those of other runs.
        model: The served model's name.
        number: Updates so far; 0 before the first.
    """

    token: str
    model: str
    number: int = 0
    _label: str = ""
    _adapter: str | None = None
    _numbers: dict[str, int] = field(default_factory=dict)

    def next_label(self) -> str:
        """The label of the next update."""
        return f"{self.token}-{self.number + 1}"

    def note_weights(self, label: str) -> None:
        """Record that the engine has new weights."""
        self.number += 1
        self._label, self._adapter = label, None
        self._numbers[label] = self.number

    def note_adapter(self, name: str) -> None:
        """Record that the engine has a new adapter on the same weights."""
        self.number += 1
        self._adapter = name

    @property
    def label(self) -> str:
        """The label of the engine's weights; "" before the first update."""
        return self._label

    @property
    def adapter(self) -> str | None:
        """The current adapter's name; None if there is no adapter."""
        return self._adapter

    def current(self) -> Asked:
        """The weights that a new request asks for."""
        return Asked(self._adapter or self.model, self._label, self.number)

    def versions(self, reply: EngineReply, asked: Asked) -> list[int] | None:
        """For each token of a reply, the number of the update that sampled it; None if any is unknown or too old.

        Weights that arrived during the reply are accepted; weights older than the request are not.
        """
        spans = reply.weights or ()
        if asked.model != self.model:
            is_same = bool(spans) and all(label == asked.label for label, _, _ in spans)
            return [asked.number] * len(reply.ids) if is_same else None
        versions = [0] * len(reply.ids)
        for label, start, end in spans:
            versions[start:end] = [self._numbers.get(label, 0)] * (end - start)
        return versions if all(version >= asked.number for version in versions) else None

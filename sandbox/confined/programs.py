"""Programs and their results as bytes, for the trainer and a tool worker: checked JSON, no pickle."""

from __future__ import annotations

import json
import weakref
from dataclasses import fields, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sandbox.confined import wire
from sandbox.effects.credit import Effects
from sandbox.effects.outcome import run_program
from sandbox.geometry import Affine
from sandbox.operations.arrays import Table
from sandbox.operations.operation import Operation
from sandbox.operations.program import ToolProgram

if TYPE_CHECKING:
    from sandbox.confined.worker import Request

#: Encoded programs, by identity, since equal programs may differ in 1 and 1.0. `lift` returns the same object again.
_encoded: dict[int, tuple[weakref.ref[ToolProgram], bytes]] = {}
_MOST_ENCODED = 256
_dumps = json.JSONEncoder(separators=(",", ":")).encode
#: The classes of a program's parts, besides plain values and tuples.
_CLASSES: dict[str, type[Any]] = {kind.__name__: kind for kind in (ToolProgram, Operation, Table)}


def encode(program: ToolProgram) -> bytes:
    """Encode a program as bytes, without the text that it prints."""
    known = _encoded.get(id(program))
    if known is not None and known[0]() is program:
        return known[1]
    data = _dumps(_plain(replace(program, text="") if program.text else program)).encode()
    if len(_encoded) >= _MOST_ENCODED:
        _encoded.clear()
    _encoded[id(program)] = weakref.ref(program), data
    return data


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    name = type(value).__name__
    if name in _CLASSES:
        return {name: [_plain(getattr(value, field.name)) for field in fields(value)]}
    return value


@lru_cache(256)
def decode(data: bytes) -> ToolProgram:
    """Decode a program."""
    program: ToolProgram = _read(json.loads(data))
    return program


def _read(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_read, value))
    if isinstance(value, dict):
        ((name, values),) = value.items()
        return _CLASSES[name](*map(_read, values))
    return value


def run(request: Request, names: dict[str, Any]) -> wire.Made:
    """Run the program of a request, in a tool worker; the text of the answer is for `read_effects`."""
    outcome = run_program(decode(request.payload), request.images[request.chosen])
    if outcome is None:
        return wire.Made(wire.EMPTY)
    earned = outcome.effects
    frame = earned.frame and [getattr(earned.frame, field.name) for field in fields(Affine)]
    text = json.dumps([earned.tools, earned.orientation, frame])
    image = outcome.image
    return wire.Made(wire.IMAGE, image if image.mode == "RGB" else image.convert("RGB"), text)


@lru_cache(256)
def read_effects(text: str) -> Effects:
    """Read the effects of a program from a tool worker's text.

    Raises:
        ValueError: The text is not one that `run` writes.
    """
    try:
        tools, orientation, frame = json.loads(text)
        if frame is not None and len(frame) != len(fields(Affine)):
            raise TypeError(f"expected six numbers, got {frame!r}")
        return Effects(
            tuple(map(str, tools)),
            None if orientation is None else str(orientation),
            None if frame is None else Affine(*map(float, frame)),
        )
    except TypeError as error:
        raise ValueError(f"a tool worker answered {text[:200]!r}") from error

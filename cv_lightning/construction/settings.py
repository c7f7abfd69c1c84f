"""What decides the rows of a build: a folder holds those of one build only."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from typing import Any

from cv_lightning.construction.plan import Planner
from cv_lightning.data.source import SampleSource, Split

#: Settings that decide nothing about a row.
_FREE = ("out", "n", "workers", "give_up_after")

#: Settings of a server that decide what it says; the others only say how it is reached.
_SAID_BY = ("model", "extra")

#: Rows of a source that ends, evenly spread, by which a build knows it again.
_N_KNOWN = 16


def deciding(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide the rows of a config in plain values."""
    settings = copy.deepcopy({name: value for name, value in config.items() if name not in _FREE})
    arguments = (settings.get("teacher") or {}).get("init_args") or {}
    if isinstance(arguments.get("endpoint"), dict):
        arguments["endpoint"] = {name: arguments["endpoint"].get(name) for name in _SAID_BY}
    return settings


def source_digests(planner: Planner) -> list[str]:
    """What some rows of each source hold, and how many there are; "" for a world that never ends."""
    return [_digest_of(source, planner.split) for source in planner.sources]


def _digest_of(source: SampleSource, split: Split) -> str:
    size = source.size(split)
    if size is None:
        return ""
    digest = hashlib.sha256(f"{size}".encode())
    for place in sorted({size * n // _N_KNOWN for n in range(_N_KNOWN)} if size else ()):
        sample = source.sample(split, place, None)
        parts = (sample.id, sample.question, sample.answer, sample.transforms, sample.box)
        digest.update(repr(parts).encode("utf-8", "surrogatepass"))
        for image in sample.images:
            digest.update(repr(image.size).encode() + image.tobytes())
    return digest.hexdigest()[:16]

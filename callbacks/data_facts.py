"""Facts about the data of a run: sizes, files, and fingerprints that change when the data do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cv_lightning.types import Sample

#: Samples of each split that go into its fingerprint.
_N_SAMPLES = 4

#: Bytes that are hashed at each end of a file; a file of at most twice this size is hashed whole.
_N_BYTES = 2**24

#: How deep a data module is searched for files.
_DEPTH = 8

_SPLITS = ("train", "validation", "test")


def data_facts(datamodule: Any) -> dict[str, Any]:
    """Facts about a data module's data, as JSON.

    Returns:
        `splits`: by split, `size` (None: endless) and `fingerprint` of its first samples: questions, answers,
        transforms and pixels; or `error`, if they cannot be read. `files`: path, bytes and `sha256` (of content and
        size; of both ends if a file is large) of every file that the data module names. `fingerprint`: of all of this,
        without paths. Empty without a data module.
    """
    if datamodule is None:
        return {}
    source = getattr(datamodule, "source", None)
    splits = {split: _split_facts(source, split) for split in _SPLITS} if hasattr(source, "sample") else {}
    files = [_file_facts(path) for path in sorted(set(_files(datamodule, _DEPTH)))]
    seen = [{name: splits[name].get("fingerprint") for name in splits}, [file.get("sha256") for file in files]]
    digest = hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()[:16]
    return {"splits": splits, "files": files, "fingerprint": digest}


def _split_facts(source: Any, split: str) -> dict[str, Any]:
    try:
        size = source.size(split)
        n = _N_SAMPLES if size is None else min(_N_SAMPLES, size)
        digest = hashlib.sha256()
        for index in range(n):
            _add(digest, source.sample(split, index))
    except Exception as error:  # noqa: BLE001  # training reads the data next and reports the error
        return {"error": f"{type(error).__name__}: {error}"[:300]}
    return {"size": size, "fingerprint": digest.hexdigest()[:16] if n else None}


def _add(digest: Any, sample: Sample) -> None:
    words = [sample.id, sample.question, sample.answer, sample.transforms, sample.box]
    digest.update(json.dumps(words).encode())
    for image in sample.images:
        digest.update(f"{image.mode}{image.size}".encode() + image.tobytes())


def _files(value: Any, depth: int) -> Iterator[Path]:
    """Files that an object of this project names, in its attributes and the values inside them."""
    if isinstance(value, Path):
        if value.is_file():
            yield value.resolve()
    elif depth > 0 and isinstance(value, Mapping):
        for item in value.values():
            yield from _files(item, depth - 1)
    elif depth > 0 and isinstance(value, list | tuple) and len(value) <= 1000:
        for item in value:
            yield from _files(item, depth - 1)
    elif depth > 0 and type(value).__module__.startswith("cv_lightning"):
        yield from _files(getattr(value, "__dict__", {}), depth)


def _file_facts(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            digest.update(file.read(_N_BYTES))
            file.seek(max(_N_BYTES, size - _N_BYTES))
            digest.update(file.read(_N_BYTES))
    except OSError as error:
        return {"path": str(path), "error": str(error)}
    digest.update(str(size).encode())
    return {"path": str(path), "bytes": size, "sha256": digest.hexdigest()}

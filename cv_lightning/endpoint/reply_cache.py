"""A disk cache of server replies, so that no request is paid for twice."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cv_lightning.endpoint.reply import read_object


class ReplyCache:
    """Replies on disk, one file each; a file is written completely or not at all.

    If the disk is full, the cache is given up, but the run continues: there is one warning, and nothing more is stored.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._is_broken = False

    def _path(self, digest: str) -> Path:
        return self.folder / digest[:2] / f"{digest}.json"

    def get(self, digest: str) -> dict[str, Any] | None:
        """The reply to a request; None if there is no readable file of it."""
        try:
            return read_object(self._path(digest).read_bytes())
        except (OSError, ValueError):
            return None

    def put(self, digest: str, content: Mapping[str, Any]) -> None:
        """Store a reply."""
        if self._is_broken:
            return
        path = self._path(digest)
        part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(content), encoding="utf-8")
            part.replace(path)
        except OSError as error:
            self._is_broken = True
            with contextlib.suppress(OSError):
                part.unlink()
            warnings.warn(
                f"{self.folder}: replies cannot be saved ({error.strerror}); the run continues without the cache. Make "
                "room, or set the endpoint's cache to another folder.",
                UserWarning,
                stacklevel=2,
            )

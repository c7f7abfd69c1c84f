"""Servers that somebody else starts and restarts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from cv_lightning.errors import EngineError
from modules.samplers.vllm.server import Server


class GivenServers:
    """Servers at known addresses, with the interface of `Fleet`.

    Args:
        urls: Their addresses.
        away_s: Seconds that a server may be away.
    """

    def __init__(self, urls: Sequence[str], away_s: float) -> None:
        self.servers = [Server(url) for url in urls]
        self._away_s = away_s

    def bring_up(self) -> list[Server]:
        """Wait until all servers answer; returns those that did not answer at first.

        Raises:
            EngineError: A server stays away.
        """
        new = [server for server in self.servers if not server.is_healthy()]
        deadline = time.monotonic() + self._away_s
        for server in new:
            while not server.is_healthy():
                if time.monotonic() > deadline:
                    raise EngineError(
                        f"sampler.servers: expected a server at {server.url}, got no answer for {self._away_s:g} s. "
                        "Start it, or use `launch`."
                    )
                time.sleep(1.0)
        return new

    def watch(self, revived: Callable[[Server], None], failed: Callable[[EngineError], None]) -> None:
        """Do nothing: others watch them."""

    def rest(self) -> None:
        """Do nothing: others watch them."""

    def discard(self) -> None:
        """Do nothing: others restart them."""

    def end(self) -> None:
        """Close the connections."""
        for server in self.servers:
            server.close()

    def last_words(self) -> str:
        """Always empty, because their logs are elsewhere."""
        return ""

"""An OpenAI-compatible HTTP server for chat completions: /v1/models and /v1/chat/completions, streamed or not.

It speaks HTTP and JSON; a `Backend` writes the replies. Tool calls go back to the client as `tool_calls`: no code that
a model wrote is executed here. Whatever a client sends ends in an answer, an error in OpenAI's form, or a closed
connection.
"""

from __future__ import annotations

import time

from cv_lightning.serving.backend import Backend
from cv_lightning.serving.handler import ChatHandler
from cv_lightning.serving.http_handler import LimitedServer, ServerLimits


class ChatServer(LimitedServer):
    """Serves a backend.

    Args:
        backend: Who writes the replies.
        host: Address to listen at.
        port: 0 takes a free one; see `server_port`.
        key: What clients must send as bearer token, None for nothing.
        limits: What a client may use.
    """

    def __init__(
        self,
        backend: Backend,
        host: str = "127.0.0.1",
        port: int = 8000,
        key: str | None = None,
        limits: ServerLimits | None = None,
    ) -> None:
        self.backend = backend
        self.key = key
        self.started = int(time.time())
        super().__init__(ChatHandler, host, port, limits)

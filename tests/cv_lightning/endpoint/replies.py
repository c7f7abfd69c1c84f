"""A turn and replies that many tests of servers share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.cv_lightning.endpoint.fake_server import completion

TURN = "result = image.rotate(270, expand=True)"


def answering(message: Mapping[str, Any], end: str = "stop") -> bytes:
    return json.dumps({"choices": [{"message": message, "finish_reason": end}]}).encode()


DONE = completion("<answer>x</answer>")

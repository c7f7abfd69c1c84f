"""A reply that was paid for is not requested again."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from tests.cv_lightning.endpoint.fake_server import HELLO, SETTINGS, Server


def test_nothing_is_asked_twice(server: Server, tmp_path: Path) -> None:
    server.endpoint(cache=str(tmp_path)).chat(HELLO, SETTINGS)
    again = server.endpoint(cache=str(tmp_path), input_price=1.0)
    assert again.chat(HELLO, SETTINGS).text == "hi"
    assert (len(server.requests), again.usage.from_cache, again.usage.cost) == (1, 1, 0)
    again.chat(HELLO, SETTINGS | {"temperature": 1})
    server.endpoint(cache=str(tmp_path), model="other").chat(HELLO, SETTINGS)
    assert len(server.requests) == 3
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("content", [b"", b'{"choices": [{"mes', b"{}", b"[]", b"\xff\xfe"])
def test_a_broken_file_of_the_cache_is_asked_again(server: Server, tmp_path: Path, content: bytes) -> None:
    server.endpoint(cache=str(tmp_path)).chat(HELLO, SETTINGS)
    (path,) = tmp_path.rglob("*.json")
    path.write_bytes(content)
    assert server.endpoint(cache=str(tmp_path)).chat(HELLO, SETTINGS).text == "hi"
    assert len(server.requests) == 2
    assert json.loads(path.read_bytes())["choices"]


def test_a_full_disk_costs_the_cache_only(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **keywords: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    endpoint = server.endpoint(cache=str(tmp_path))
    with pytest.warns(UserWarning, match="No space left on device") as caught:
        texts = [endpoint.chat(HELLO, SETTINGS).text for _ in range(3)]
    assert texts == ["hi"] * 3
    assert len(caught) == 1

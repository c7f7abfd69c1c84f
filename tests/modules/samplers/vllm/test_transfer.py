"""Ways to transfer weights to servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.samplers.vllm.server import Server, ServerFault
from modules.samplers.vllm.transfer import FileTransfer
from modules.samplers.vllm.update import update
from tests.modules.samplers.vllm.fake import FakeServer
from tests.modules.samplers.vllm.helpers import two_parts


def test_files_of_the_last_update_alone_are_kept(server: FakeServer, tmp_path: Path) -> None:
    transfer = FileTransfer(tmp_path / "weights")
    transfer.open([Server(server.url)])
    for label in ("run-1", "run-2"):
        update([Server(server.url)], transfer, two_parts(), label, "wait")
    assert sorted(path.name for path in (tmp_path / "weights").iterdir()) == [
        "run-2-0.safetensors",
        "run-2-1.safetensors",
    ]
    transfer.close()
    assert not (tmp_path / "weights").exists()


def test_a_disk_without_room_is_told(server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("a file where the folder should be", encoding="utf-8")
    with pytest.raises((ServerFault, OSError)):
        update([Server(server.url)], FileTransfer(tmp_path / "weights"), two_parts(), "run-1", "wait")

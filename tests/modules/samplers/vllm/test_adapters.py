"""Each update is a new adapter; the newest two are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from peft import PeftConfig

from modules.samplers.vllm.adapters import Adapters, rank_of
from modules.samplers.vllm.server import Server, ServerFault
from tests.modules.helpers import LORA, small_policy


@pytest.mark.parametrize(
    ("lora", "rank"),
    [
        ({}, 4),
        ({"rank_pattern": {"v_proj": 16}}, 16),
        ({"use_rslora": True}, 4),
        ({"use_dora": True}, None),
        ({"bias": "lora_only"}, None),
        ({"modules_to_save": ["lm_head"]}, None),
        ({"target_modules": ["q_proj", "qkv"]}, None),  # in the vision tower
    ],
    ids=str,
)
def test_an_engine_loads_plain_adapters_of_the_language_model(lora: dict[str, Any], rank: int | None) -> None:
    assert rank_of(small_policy(lora={**LORA, **lora})) == rank


def test_a_policy_without_adapters_has_no_rank() -> None:
    assert rank_of(small_policy()) is None


class Loader(Server):
    """Records its calls; refuses them with the given message, if any."""

    def __init__(self, refuses: str = "") -> None:
        super().__init__("http://127.0.0.1:1")
        self.told: list[tuple[str, str]] = []
        self.refuses = refuses

    def post(self, path: str, body: Any = None, **parameters: str) -> Any:
        self.told.append((path.rpartition("/")[2], body["lora_name"]))
        if self.refuses:
            raise ServerFault(self.refuses, 400)
        return "ok"


def test_the_newest_two_are_kept_on_servers_and_on_disk(tmp_path: Path) -> None:
    policy, adapters = small_policy(lora=LORA), Adapters(tmp_path / "adapters")
    servers = [Loader(), Loader()]
    for name in ("run-1", "run-2", "run-3"):
        adapters.write(policy, name)
        assert PeftConfig.from_pretrained(str(tmp_path / "adapters" / name)).r == 4
        adapters.load(servers, name)
    loads = [("load_lora_adapter", f"run-{number}") for number in (1, 2, 3)]
    assert [server.told for server in servers] == [[*loads, ("unload_lora_adapter", "run-1")]] * 2
    assert sorted(path.name for path in (tmp_path / "adapters").iterdir()) == ["run-2", "run-3"]
    adapters.close()
    assert not (tmp_path / "adapters").exists()


def test_one_that_was_loaded_before_another_server_failed_is_no_fault(tmp_path: Path) -> None:
    adapters = Adapters(tmp_path)
    adapters.load_again([Loader("The lora adapter 'run-1' has already been loaded.")], "run-1")
    with pytest.raises(ServerFault, match="No such file"):
        adapters.load_again([Loader("No such file")], "run-1")

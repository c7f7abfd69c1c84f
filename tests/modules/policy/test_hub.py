"""A model that the hub cannot provide fails at once, with one line that names a remedy."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, HTTPError, RepositoryNotFoundError

from cv_lightning.errors import CheckpointError
from modules.policy import hub

#: The HTTP library that the hub's client uses: httpx, or its successor.
CLIENT = importlib.import_module(HTTPError.__module__.partition(".")[0])


def answered(status: int) -> Any:
    return CLIENT.Response(status, request=CLIENT.Request("GET", "https://huggingface.co"))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (HTTPError("[Errno -2] Name or service not known"), r"cannot be reached \(\[Errno -2\].*hf download a/b"),
        (OSError("no route"), "cannot be reached .no route.*hf download a/b --local-dir"),
        (GatedRepoError("gated", response=answered(403)), "is gated.*huggingface.co/a/b.*hf auth login"),
        (RepositoryNotFoundError("none", response=answered(404)), "has no model 'a/b'.*Check the name"),
    ],
    ids=["no network", "no route", "gated", "unknown"],
)
def test_what_the_hub_says_becomes_a_remedy(error: Exception, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def model_info(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(CheckpointError, match=words):
        hub.check_hub("a/b")


def test_a_cached_model_needs_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_: "/cache/config.json")
    monkeypatch.setattr(hub.HfApi, "model_info", lambda *_, **__: pytest.fail("asked"))
    hub.check_hub("a/b")


def test_offline_mode_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set"):
        hub.check_hub("a/b")

"""Conversations for the tests of the engine, and environments whose vLLM is a fake."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from cv_lightning.rollout import Completion, OnTokens, Sampling
from cv_lightning.types import Sample, TokenSequence, ViewedImage
from modules.policy.policy import Policy
from modules.samplers.vllm.engine import Engine, Patience, Place
from modules.samplers.vllm.images import EncodedImages
from modules.samplers.vllm.launch import Needs
from modules.samplers.vllm.session import EngineSession
from modules.samplers.vllm.weight_log import WeightLog
from modules.samplers.vllm.weights import Part
from tests.modules.helpers import noise
from tests.modules.samplers.vllm import fake
from tests.modules.samplers.vllm.fake import FakeServer

#: Short limits, so that a test of a fault takes little time.
SHORT = Patience(turn_s=0.5, away_s=2.0, attempts=3)

#: Requirements of the servers that the tests start, and their host.
NEEDS = Needs("bfloat16", 600, 784, 40000, "files", None)
HOST = "127.0.0.1"


def engine_of(policy: Policy, *servers: FakeServer, patience: Patience = SHORT, **more: Any) -> Engine:
    """An engine whose servers have weights."""
    log = WeightLog("run", "policy")
    log.note_weights("run-1")
    for server in servers:
        server.version = "run-1"
        server.image_id = policy.core.config.image_token_id
    images = EncodedImages(policy.patcher.resized, "size")
    return Engine([Place(server.url) for server in servers], log, images, patience, **more)


def session_of(engine: Engine, policy: Policy, on_tokens: OnTokens | None = None, **sampling: Any) -> EngineSession:
    return EngineSession(
        engine,
        Sampling(**{"max_new_tokens": 12, "seed": 3, **sampling}),
        image_id=policy.core.config.image_token_id,
        end_id=policy.conversation.end_of_turn_id,
        banned=[1, 2],
        max_context_tokens=policy.conversation.max_context_tokens,
        on_tokens=on_tokens,
    )


def contexts_of(policy: Policy, each: int = 2) -> list[TokenSequence]:
    """Beginnings of conversations: `each` of them with one image, and as many with two."""
    samples = [
        Sample("a", "Read the text.", (noise(),), "x"),
        Sample("b", "Read all of the text please.", (noise(120, 60, 1), noise(seed=2)), "x"),
    ]
    prompts = [policy.conversation.start(sample) for sample in samples]
    return [prompt.copy() for prompt in prompts for _ in range(each)]


def converse(
    session: EngineSession, policy: Policy, contexts: Sequence[TokenSequence], n_turns: int = 2
) -> list[list[Completion]]:
    """Run all turns of each conversation at its own pace, with a new image after each turn."""

    async def one(context: TokenSequence, number: int) -> list[Completion]:
        said = []
        for turn in range(n_turns):
            completion = await session.sample(context)
            said.append(completion)
            context.append(completion.ids, is_trained=True, logprobs=completion.logprobs)
            result = ViewedImage(noise(60 + 30 * (number % 2), 90, 5 + turn))
            assert policy.conversation.append_observation(context, "seen", result)
        return said

    async def all_of_them() -> list[list[Completion]]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(context, number)) for number, context in enumerate(contexts)]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            await session.close()
        return [task.result() for task in tasks]

    return asyncio.run(all_of_them())


def fake_environment(folder: Path) -> Path:
    """An environment in which `vllm` is the fake server."""
    site = folder / "site" / "vllm-0.32.0+cpu.dist-info"
    site.mkdir(parents=True)
    (site / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n", encoding="utf-8")
    (folder / "bin").mkdir()
    for name, program in (("python", ""), ("vllm", f"'{fake.__file__}'")):
        path = folder / "bin" / name
        text = f"#!/bin/sh\nPYTHONPATH='{folder}/site' exec '{sys.executable}' {program} \"$@\"\n"
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
    return folder


def pids_of(folder: Path) -> list[int]:
    """Process ids of the fake servers whose model is below a folder, guardians included."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
        except OSError:
            continue
        if any(word.startswith(str(folder)) for word in words) and str(os.getpid()) != path.parent.name:
            found.append(int(path.parent.name))
    return found


def server_of(folder: Path) -> int:
    """The process id of the fake server itself."""
    (pid,) = [pid for pid in pids_of(folder) if "guardian" not in Path(f"/proc/{pid}/cmdline").read_text("utf-8")]
    return pid


def two_parts() -> Iterator[Part]:
    """The weights of an update, in two parts."""
    yield [("a", torch.ones(2, 3)), ("b", torch.zeros(4))]
    yield [("c", torch.ones(1))]

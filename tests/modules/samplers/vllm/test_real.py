"""The real vLLM on a CPU: the same log-probabilities as the policy, new weights, and kills. `pytest -m vllm`.

One server per family and precision serves all tests except the kills. `VLLM_ENV` names its environment; without it,
the environment is created once.
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from lightning import Trainer
from torch import Tensor

from cv_lightning.data.worlds.plates import PlateWorld
from cv_lightning.evaluation.questions import RobustnessDataModule
from cv_lightning.rollout import Completion, OnTokens, Sampling
from cv_lightning.types import TokenSequence
from modules.evaluate import LocalSolver, RobustnessTest
from modules.policy.policy import Policy
from modules.rollouts import RolloutConfig
from modules.samplers.vllm.client import EngineClient
from modules.samplers.vllm.engine import Patience
from modules.samplers.vllm.fleet import Fleet
from modules.samplers.vllm.launch import Needs, make_processes
from modules.samplers.vllm.sampler import VLLM
from modules.samplers.vllm.weights import Part, write_model
from modules.samplers.vllm.wire import EngineReply
from tests.modules.samplers.vllm.fake import RECORDED
from tests.modules.samplers.vllm.helpers import contexts_of, converse, pids_of, server_of
from tests.modules.samplers.vllm.real import LORA, a_policy, environment, launch_of
from tests.modules.samplers.vllm.record import descendants

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]

#: Largest allowed difference of a log-probability, in nats.
CLOSE = 1e-4
#: Number of conversations in `conversations`.
N_CONVERSATIONS = 6
PATIENCE = Patience(turn_s=300.0, away_s=1200.0)


@pytest.fixture(scope="session", params=["qwen2_5_vl", "qwen3_vl"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A family, and the address of its server, which computes in float32."""
    with serving(request.param, torch.float32, tmp_path_factory.mktemp(request.param)) as url:
        yield request.param, url


@pytest.fixture(scope="session", params=["qwen2_5_vl", "qwen3_vl"])
def served_rounded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """A family, and the address of its server, which computes in bfloat16."""
    with serving(request.param, torch.bfloat16, tmp_path_factory.mktemp(request.param)) as url:
        yield request.param, url


@contextmanager
def serving(family: str, dtype: torch.dtype, folder: Path) -> Iterator[str]:
    """The address of a server that has a family's weights."""
    policy = a_policy(family)
    write_model(policy, folder / "model", dtype)
    bounds = policy.image_processor.size
    pixels = bounds["shortest_edge"], bounds["longest_edge"]
    needs = Needs(str(dtype).removeprefix("torch."), 600, *pixels, "files", lora_rank=8)
    launch = launch_of(environment(), folder)
    fleet = Fleet(make_processes(launch, needs, folder / "model", "127.0.0.1"), 1500.0, 0, folder)
    try:
        fleet.bring_up()
        yield fleet.servers[0].url
    finally:
        fleet.end()
    assert not pids_of(folder)


@contextmanager
def sampling_from(url: str, policy: Policy, **settings: Any) -> Iterator[VLLM]:
    sampler = VLLM([url], patience=PATIENCE, **settings)
    sampler.attach(policy)
    try:
        yield sampler
    finally:
        sampler.close()


def conversations(
    sampler: VLLM, policy: Policy, temperature: float = 1.0, each: int = N_CONVERSATIONS // 2
) -> list[TokenSequence]:
    """Sample two turns of each conversation, with one to four images, with the newest weights."""
    contexts = contexts_of(policy, each)
    with sampler.speaking() as speaker:
        session: Any = speaker.open_session(Sampling(temperature, 16, seed=7))
        turns = [turn for said in converse(session, policy, contexts, n_turns=2) for turn in said]
    assert {version for turn in turns for version in turn.versions or ()} == {sampler.version}
    return contexts


@torch.no_grad()
def gap(policy: Policy, contexts: list[TokenSequence], temperature: float = 1.0) -> float:
    """Largest difference between the engine's log-probabilities and the policy's, in nats."""
    batch = policy.collate(contexts)
    scored, _ = policy.token_logprobs(batch, temperature or 1.0)
    gaps = (scored - batch.logprobs_BT)[batch.is_trained_BT].abs()
    assert len(gaps) > 50
    assert not policy.is_banned_V[batch.input_ids_BT[batch.is_trained_BT]].any()
    print(f"{len(gaps)} tokens: max {gaps.max():.1e}, mean {gaps.mean():.1e}")
    return float(gaps.max())


@torch.no_grad()
def scores(policy: Policy, contexts: list[TokenSequence], temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the sampled tokens, from the policy and from the sampler."""
    batch = policy.collate(contexts)
    return policy.token_logprobs(batch, temperature)[0][batch.is_trained_BT], batch.logprobs_BT[batch.is_trained_BT]


@torch.no_grad()
def unrounded(policy: Policy) -> Policy:
    """A policy that computes in float32 with the rounded weights of a bfloat16 policy."""
    model = copy.deepcopy(policy.model).to(torch.bfloat16).float()
    return policy.companion(model, torch.float32)


@torch.no_grad()
def change(policy: Policy) -> None:
    """Change every trained weight, including those of the vision tower."""
    for parameter in policy.model.parameters():
        if parameter.requires_grad and parameter.numel() > 1:
            parameter.add_(0.1 * parameter.std() * torch.randn_like(parameter))


@pytest.mark.parametrize("kind", ["full", "adapters", "sums"])
def test_the_engine_has_the_policys_logprobs(served: tuple[str, str], kind: str, tmp_path: Path) -> None:
    family, url = served
    policy = a_policy(family, lora=None if kind == "full" else LORA)
    adapters = {"full": None, "adapters": True, "sums": False}[kind]
    with sampling_from(url, policy, folder=str(tmp_path), adapters=adapters) as sampler:
        sampler.refresh()
        for temperature in (1.0, 2.0, 0.0, 0.7):
            assert gap(policy, conversations(sampler, policy, temperature), temperature) < CLOSE
        change(policy)
        started = time.perf_counter()
        sampler.refresh()
        print(f"weights brought in {time.perf_counter() - started:.2f} s")
        assert gap(policy, conversations(sampler, policy)) < CLOSE


@pytest.mark.parametrize("kind", ["full", "adapters", "sums"])
def test_in_bfloat16_the_engine_is_as_near_as_rounding_allows(
    served_rounded: tuple[str, str], kind: str, tmp_path: Path
) -> None:
    """Engine and trainer round: their gap is at most the sum of their distances to the same weights in float32.

    If the engine rounds no worse than the trainer, their mean gap is at most twice the trainer's mean distance. The
    gap is larger with old weights or another temperature.
    """
    family, url = served_rounded
    policy = a_policy(family, dtype="bfloat16", lora=None if kind == "full" else LORA)
    adapters = {"full": None, "adapters": True, "sums": False}[kind]
    with sampling_from(url, policy, folder=str(tmp_path), adapters=adapters) as sampler:
        assert not sampler.agrees
        for _ in range(2):
            sampler.refresh()
            for temperature in (1.0, 0.7):
                contexts = conversations(sampler, policy, temperature, each=8)
                trainer, engine = scores(policy, contexts, temperature)
                exact, _ = scores(unrounded(policy), contexts, temperature)
                print(f"T = {temperature}, {len(engine)} tokens")
                limit = 2 * mean_gap("trainer, float32", trainer, exact)
                assert mean_gap("engine, float32", engine, exact) < limit
                assert mean_gap("engine, trainer", engine, trainer) < limit
                assert mean_gap("engine, trainer at T = 1.3", engine, scores(policy, contexts, 1.3)[0]) > limit
                mean_gap("own sampling, trainer", *scores(policy, own_turns(policy, temperature), temperature))
            change(policy)
            assert mean_gap("engine, newer weights", engine, scores(policy, contexts, 0.7)[0]) > limit


def own_turns(policy: Policy, temperature: float) -> list[TokenSequence]:
    """The first turn of each conversation, sampled by the policy itself."""
    contexts = contexts_of(policy, each=8)
    turns = policy.open_session(Sampling(temperature, 16, seed=7)).sample(contexts)
    for context, turn in zip(contexts, turns, strict=True):
        context.append(turn.ids, is_trained=True, logprobs=turn.logprobs)
    return contexts


def mean_gap(name: str, left: Tensor, right: Tensor) -> float:
    gaps = (left - right).abs()
    print(f"  {name}: max {gaps.max():.2f}, mean {gaps.mean():.1e}")
    return float(gaps.mean())


def test_greedy_turns_are_those_of_the_policy(served: tuple[str, str], tmp_path: Path) -> None:
    family, url = served
    policy = a_policy(family)
    with sampling_from(url, policy, folder=str(tmp_path)) as sampler:
        sampler.refresh()
        (spoken, *_) = conversations(sampler, policy, temperature=0.0, each=1)
    (context, *_) = contexts_of(policy, each=1)
    (completion,) = policy.open_session(Sampling(0.0, 16)).sample([context])
    assert spoken.ids[len(context) :][: len(completion.ids)] == completion.ids


def test_answers_of_an_evaluation_are_those_without_an_engine(served: tuple[str, str], tmp_path: Path) -> None:
    family, url = served
    policy = a_policy(family)
    answers = []
    for sampler in (None, VLLM([url], patience=PATIENCE, folder=str(tmp_path))):
        solver = LocalSolver(policy, RolloutConfig(max_turns=2, max_new_tokens=16, lane="pillow"), sampler=sampler)
        folder = tmp_path / ("engine" if sampler else "local")
        trainer = Trainer(accelerator="cpu", devices=1, logger=False, default_root_dir=folder)
        world = PlateWorld(width=84, height=84)
        orientations = ["upright", "rot180"]
        data = RobustnessDataModule(source=world, n_questions=8, batch_size=16, orientations=orientations)
        trainer.test(RobustnessTest(solver), datamodule=data)
        records = [json.loads(line) for line in (folder / "answers_0.jsonl").read_text("utf-8").splitlines()]
        answers.append({record["key"]: record["turns"] for record in records})
    assert len(answers[0]) == 16
    assert len({*map(str, answers[0].values())}) > 4, "else nothing is proven"
    assert answers[1] == answers[0]


def test_a_reader_follows_a_turn_and_cuts_it(served: tuple[str, str], tmp_path: Path) -> None:
    family, url = served
    policy = a_policy(family)
    with sampling_from(url, policy, folder=str(tmp_path)) as sampler:
        sampler.refresh()
        seen: list[int | None] = []

        def said(on_tokens: OnTokens | None) -> Completion:
            with sampler.speaking() as speaker:
                session: Any = speaker.open_session(Sampling(1.0, 40, seed=7), on_tokens)
            ((completion,),) = converse(session, policy, contexts_of(policy, each=1)[:1], n_turns=1)
            return completion

        whole = said(None)
        assert said(lambda row: seen.extend(row) is None) == whole
        assert seen == whole.ids
        seen.clear()
        cut = said(lambda row: seen.extend(row) is None and len(seen) < 3)
        assert seen == cut.ids == whole.ids[:3]
        assert (cut.logprobs, cut.is_finished, cut.versions) == (pytest.approx(whole.logprobs[:3]), False, None)


def test_the_recorded_replies_are_still_the_servers(served: tuple[str, str]) -> None:
    _, url = served
    model = httpx2.get(url + "/v1/models").json()["data"][0]  # adapters come after it
    assert RECORDED["GET /v1/models"]["data"][0].keys() == model.keys()
    body = {"model": "policy", "token_ids": [5, 6, 7], "return_token_ids": True}
    body["sampling_params"] = {"max_tokens": 2, "logprobs": 0, "seed": 1, "detokenize": False}
    reply = httpx2.post(url + "/inference/v1/generate", json=body, timeout=300).json()
    with httpx2.stream("POST", url + "/inference/v1/generate", json=body | {"stream": True}, timeout=300) as streamed:
        chunks = [json.loads(line.removeprefix("data: ")) for line in streamed.iter_lines() if line[:7] == "data: {"]
    for number, chunk in enumerate(RECORDED["POST /inference/v1/generate, streamed"][::2]):
        assert chunk.keys() == chunks[-number].keys()
        assert chunk["choices"][0].keys() == chunks[-number]["choices"][0].keys()
    recorded = RECORDED["POST /inference/v1/generate"]
    assert recorded.keys() == reply.keys()
    assert recorded["choices"][0].keys() == reply["choices"][0].keys()
    missing = [path for path in RECORDED["GET /openapi.json"]["paths"] if path not in _routes(url)]
    assert not missing
    forgotten = {"content_parts": [{"type": "image_url", "uuid": "never sent"}], "token_ids": [5, 6]}
    said = httpx2.post(url + "/inference/v1/generate", json=body | forgotten, timeout=300)
    assert (said.status_code, said.json()["error"]["type"]) == (400, RECORDED["400 forgotten"]["error"]["type"])


def _routes(url: str) -> dict[str, Any]:
    routes: dict[str, Any] = json.loads(httpx2.get(url + "/openapi.json").content)["paths"]
    return routes


def test_an_engine_that_is_killed_during_rollout_and_update_and_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, folder = a_policy("qwen2_5_vl"), tmp_path / "engine"
    launch = replace(launch_of(environment(), folder), start_s=1500.0)
    sampler = VLLM(launch=launch, patience=PATIENCE, folder=str(tmp_path))
    sampler.attach(policy)
    try:
        sampler.refresh()
        before = conversations(sampler, policy)
        with killed_in_a_turn(folder, monkeypatch), pytest.warns(UserWarning, match="is started again"):
            during = conversations(sampler, policy)
        assert [context.ids for context in during] == [context.ids for context in before]  # each turn was sampled once
        assert gap(policy, during) < CLOSE
        change(policy)
        kill(folder, "EngineCore")
        with pytest.warns(UserWarning, match="is started again"):
            sampler.refresh()
        assert gap(policy, conversations(sampler, policy)) < CLOSE
        change(policy)
        with killed_in_the_next_update(folder, sampler), pytest.warns(UserWarning, match="is started again"):
            sampler.refresh()
        assert gap(policy, conversations(sampler, policy)) < CLOSE
        assert sampler.version == 3
    finally:
        sampler.close()
    assert not pids_of(tmp_path)


def kill(folder: Path, name: str = "") -> None:
    """Kill the server of a folder, or its process of this name, as the kernel does when memory runs out."""
    pid = server_of(folder)
    if name:
        (pid,) = [each for each in descendants(pid) if name in Path(f"/proc/{each}/cmdline").read_text("utf-8")]
    os.kill(pid, signal.SIGKILL)


@contextmanager
def killed_in_a_turn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kill the engine when second turns begin, while other conversations are being sampled."""
    generate, n_asked = EngineClient.generate, 0

    async def watched(self: EngineClient, url: str, body: dict[str, Any], *arguments: Any) -> EngineReply:
        nonlocal n_asked
        n_asked += body["sampling_params"]["max_tokens"] > 1
        asked = asyncio.ensure_future(generate(self, url, body, *arguments))
        if n_asked == N_CONVERSATIONS + 1:
            await asyncio.sleep(0.002)
            kill(folder, "EngineCore")
            n_asked += 1
        return await asked

    with monkeypatch.context() as patch:
        patch.setattr(EngineClient, "generate", watched)
        yield
    assert n_asked > N_CONVERSATIONS + 1


@contextmanager
def killed_in_the_next_update(folder: Path, sampler: VLLM) -> Iterator[None]:
    """Kill the server after the start of an update and before its first weights are sent."""
    send = sampler._transfer.send

    def once(part: Part) -> None:
        sampler._transfer.send = send  # type: ignore[method-assign]
        kill(folder)
        send(part)

    sampler._transfer.send = once  # type: ignore[method-assign]
    yield
    assert sampler._transfer.send == send

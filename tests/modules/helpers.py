"""Small policies, images and conversations for the tests of the policy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Trainer
from PIL import Image
from torch.utils.data import DataLoader

from cv_lightning.conversation import format_answer, parse_reply
from cv_lightning.data.oracle import EpisodeBuilder
from cv_lightning.data.worlds.plates import PlateWorld
from cv_lightning.rollout import Sampling
from cv_lightning.types import Sample, TokenSequence, Trajectory, Turn, ViewedImage
from modules.base import PolicyModule
from modules.policy.policy import Policy
from modules.policy.tiny import TinyConfig
from sandbox import ToolExecutor

FAMILIES = ("qwen2_5_vl", "qwen3_vl", "qwen3_5")

SIZE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "layers": 2,
    "heads": 2,
    "kv_heads": 1,
    "vision_hidden_size": 32,
    "vision_intermediate_size": 48,
    "vision_layers": 2,
    "vision_heads": 2,
}

#: Adapters that change the policy from the start; fresh adapters add zero, so they would prove nothing.
LORA: dict[str, Any] = {"r": 4, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}


def small_policy(family: str = "qwen2_5_vl", **changes: Any) -> Policy:
    """A policy with random weights in evaluation mode."""
    arguments: dict[str, Any] = {"min_pixels": 28 * 28, "max_pixels": 200 * 200, "max_context_tokens": 600}
    arguments |= {"system_prompt": "Read.", **changes}
    if "source" not in arguments:
        arguments.setdefault("build", TinyConfig(family=family, **SIZE))  # type: ignore[arg-type]
    torch.manual_seed(0)  # adapters draw their weights from the global generator
    return Policy(**arguments).eval()


def noise(width: int = 84, height: int = 84, seed: int = 0) -> Image.Image:
    """An image of random pixels."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def replying(sample: Sample, answer: str) -> Trajectory:
    """A rollout that answered at once."""
    text = format_answer("Upright.", answer)
    return Trajectory(sample, turns=[Turn(text, parse_reply(text))])


def sampled_conversations(policy: Policy, temperature: float = 1.0) -> list[TokenSequence]:
    """Six sampled conversations of one to three turns, with several images in some of them."""
    samples = [
        Sample("a", "Read the text.", (noise(),), "x"),
        Sample("b", "Read all of the text please.", (noise(120, 60, 1), noise(seed=2)), "x"),
    ]
    contexts = [policy.conversation.start(sample) for sample in samples for _ in range(3)]
    session = policy.open_session(Sampling(temperature, 10, seed=1))

    def speak(those: Sequence[TokenSequence]) -> None:
        for context, completion in zip(those, session.sample(those), strict=True):
            context.append(completion.ids, is_trained=True, logprobs=completion.logprobs)

    speak(contexts)
    some = [contexts[4], contexts[1], contexts[3]]
    for index, context in enumerate(some):
        image = None if index == 1 else ViewedImage(noise(60 + 30 * index, 90, 3 + index))
        assert policy.conversation.append_observation(context, "hey" * index, image)
    speak(some)
    for context in some[1:]:
        assert policy.conversation.append_observation(context, "again", ViewedImage(noise(90, 90, 9)))
    speak(some[1:])
    return contexts


@cache
def episodes(n: int = 6) -> tuple[Trajectory, ...]:
    """Recorded conversations of the oracle about small plates, some of them with mistakes."""
    builder = EpisodeBuilder(PlateWorld(seed=0), mix={"read": 0.3, "turn": 0.3, "recover": 0.4})
    found: list[Trajectory] = []
    index = 0
    with ToolExecutor(lane="pillow") as executor:
        while len(found) < n:
            episode = builder.episode("train", index, executor)
            index += 1
            if episode is not None:
                found.append(episode)
    return tuple(found)


def train(
    module: PolicyModule, batches: Sequence[Sequence[Any]], resume: Path | None = None, **changes: Any
) -> Trainer:
    """Fit on the batches, in their order, on the CPU."""
    arguments: dict[str, Any] = {"max_epochs": 1, "max_steps": -1, "num_sanity_val_steps": 0, "accelerator": "cpu"}
    arguments |= {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "devices": 1}
    arguments |= {"enable_model_summary": False, **changes}
    trainer = Trainer(**arguments)
    loader: Any = DataLoader(list(batches), batch_size=None, collate_fn=lambda batch: batch)  # type: ignore[arg-type]
    trainer.fit(module, loader, ckpt_path=resume, weights_only=False if resume else None)
    return trainer


def gradients(policy: Policy) -> dict[str, torch.Tensor]:
    """A copy of every gradient that exists."""
    return {name: p.grad.detach().clone() for name, p in policy.named_parameters() if p.grad is not None}


def assert_same_gradients(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """The same parameters have gradients, and they agree to 1e-5 of the largest entry."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        tolerance = 1e-5 * max(1.0, value.abs().max().item())
        torch.testing.assert_close(actual[name], value, rtol=1e-4, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")

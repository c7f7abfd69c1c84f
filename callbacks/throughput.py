"""The speed of a run and the shares of its time."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from cv_lightning.errors import ConfigError
from cv_lightning.types import Rollouts

#: Phases of a step, and the metric that holds the duration of each.
_PHASES = {"rollout": "time/rollout_s", "score": "time/score_s", "update": "time/update_s"}


class Throughput(Callback):
    """Logs `throughput/...` of each training step, of this process (docs/metrics.md explains each).

    A step lasts from the end of the previous step to its own end, so it includes waiting for data and logging. The
    model FLOPs utilization is a low estimate: with N the parameters of the language model that every token passes
    (all but the input embeddings) and M the trained parameters among them,

        FLOPs = 2 N (tokens of the rollouts) + (4 N + 2 M) (tokens of the update) + 2 N (the same, if there is a KL)

    because a forward pass costs 2 N per token, and its backward pass 2 N for activations and 2 M for weights (Kaplan et
    al., arXiv 2001.08361, section 2.1). Attention over the context and the vision tower are left out, and work done
    twice (gradient checkpointing) counts once.

    Args:
        peak_tflops: Peak of one device in the dtype that is used, in 10^12 FLOPs per second (989 for an H100 SXM in
            bfloat16). None logs no utilization.

    Raises:
        ConfigError: `peak_tflops` that is not above 0.
    """

    def __init__(self, peak_tflops: float | None = None) -> None:
        if peak_tflops is not None and not peak_tflops > 0:
            raise ConfigError(f"Throughput: peak_tflops: expected more than 0, or null, got {peak_tflops}")
        self.peak_tflops = peak_tflops
        self._ended_at: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._ended_at = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restart the clock: a validation is not part of a training step."""
        self._ended_at = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Measure the step."""
        rollouts, logged = outputs.get("rollouts"), outputs.setdefault("metrics", {})
        now = time.perf_counter()
        seconds, self._ended_at = now - (self._ended_at if self._ended_at is not None else now), now
        metrics = memory_metrics(pl_module.device)
        if seconds > 0:
            metrics |= step_metrics(logged, seconds)
            metrics |= rollout_metrics(rollouts, logged, seconds) if rollouts is not None else {}
            if self.peak_tflops is not None:
                n_rolled_out = sum(len(t.tokens) for t in rollouts.trajectories) if rollouts is not None else 0
                metrics["throughput/mfu"] = flops(pl_module, logged, n_rolled_out) / (seconds * self.peak_tflops * 1e12)
        logged.update(metrics)


def step_metrics(logged: Mapping[str, float], seconds: float) -> dict[str, float]:
    """Length of the step, share of each phase in it, and tokens of the update per second of the update."""
    metrics = {"throughput/step_s": seconds}
    phases = {phase: logged[name] for phase, name in _PHASES.items() if name in logged}
    if phases:
        metrics |= {f"throughput/share/{phase}": took / seconds for phase, took in phases.items()}
        metrics["throughput/share/other"] = max(0.0, 1 - sum(phases.values()) / seconds)
    if "train/tokens" in logged:
        metrics["throughput/training_tokens_per_s"] = logged["train/tokens"] / (phases.get("update") or seconds)
    return metrics


def rollout_metrics(rollouts: Rollouts, logged: Mapping[str, float], seconds: float) -> dict[str, float]:
    """Trajectories and images per second of the step, sampled tokens per second of the rollout, and tools' share."""
    trajectories = rollouts.trajectories
    n_images = sum(len(trajectory.images) for trajectory in trajectories)
    metrics = {
        "throughput/trajectories_per_s": len(trajectories) / seconds,
        "throughput/images_per_s": n_images / seconds,
    }
    rollout_s = logged.get("time/rollout_s", 0.0)
    if rollout_s > 0 and "rollout/sampled_tokens" in logged:
        metrics["throughput/rollout_tokens_per_s"] = logged["rollout/sampled_tokens"] / rollout_s
    if rollout_s > 0 and "time/tools_s" in logged:
        metrics["throughput/share/tools"] = logged["time/tools_s"] / seconds
    seen = [turn.observation for t in trajectories for turn in t.turns if turn.reply.call and turn.observation]
    for lane, count in Counter(observation.lane for observation in seen).items():
        metrics[f"throughput/lane/{lane}"] = count / len(seen)
    if seen:
        metrics["throughput/call_s"] = sum(observation.wall_s for observation in seen) / len(seen)
    return metrics


def memory_metrics(device: torch.device) -> dict[str, float]:
    """Resident memory of this process, and the accelerator's peak memory so far, in mebibytes."""
    metrics: dict[str, float] = {}
    statm = Path("/proc/self/statm")
    if statm.exists():
        pages = int(statm.read_text(encoding="ascii").split()[1])
        metrics["throughput/memory_mb"] = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    if device.type == "cuda":
        metrics["throughput/accelerator_memory_mb"] = torch.cuda.max_memory_allocated(device) / 2**20
    return metrics


def flops(module: LightningModule, logged: Mapping[str, float], n_rolled_out: int) -> float:
    """Estimated FLOPs of a step of this process; see `Throughput`."""
    n, m = passed_parameters(module)
    n_updated = logged.get("train/tokens", 0.0)
    reference = 2 * n * n_updated if "rl/kl" in logged else 0.0
    return 2 * n * n_rolled_out + (4 * n + 2 * m) * n_updated + reference


def passed_parameters(module: torch.nn.Module) -> tuple[int, int]:
    """Number of parameters that every token passes, and number of trained parameters among them.

    The vision tower and the input embeddings are left out. Embeddings that are tied to the output head do count:
    `named_parameters` lists their matrix once, so there is no separate head.
    """
    names = [(name, p) for name, p in module.named_parameters() if ".visual." not in f".{name}"]
    has_head = any("lm_head" in name for name, _ in names)
    passed = [p for name, p in names if not (has_head and "embed_tokens" in name)]
    return sum(p.numel() for p in passed), sum(p.numel() for p in passed if p.requires_grad)

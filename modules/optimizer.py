"""Optimizer and learning-rate schedule, from configuration."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from cv_lightning.errors import ConfigError
from modules.policy.shards import store, whole

#: Below this learning rate, an optimizer of weights in half precision is refused.
SMALLEST_HALF_PRECISION_LR = 1e-4


@dataclass(frozen=True)
class OptimizerConfig:
    """How parameters are updated.

    Attributes:
        name: "adamw", or "muon": Muon for the hidden matrices and AdamW for everything else.
        lr: Peak learning rate. Muon's updates are scaled to the size of AdamW's.
        rest_lr: Peak learning rate outside Muon (embeddings, head, norms, biases); None takes `lr`.
        weight_decay: Decoupled weight decay.
        betas: AdamW's decay rates of the first and second moment.
        warmup_steps: Optimizer steps of linear warm-up.
        schedule: Learning rate from the warm-up to `trainer.max_steps`: "constant", or "linear" or "cosine" decay to
            `final_lr_ratio`.
        final_lr_ratio: Last learning rate divided by the peak.
        max_grad_norm: Gradients are clipped to this norm; 0 disables clipping.
    """

    name: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-5
    rest_lr: float | None = None
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    warmup_steps: int = 0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    final_lr_ratio: float = 0.0
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ConfigError(f"optimizer.lr: expected a positive number, got {self.lr}")
        if self.rest_lr is not None and self.rest_lr <= 0:
            raise ConfigError(f"optimizer.rest_lr: expected a positive number, got {self.rest_lr}")
        if not 0 <= self.final_lr_ratio <= 1:
            raise ConfigError(f"optimizer.final_lr_ratio: expected a number in [0, 1], got {self.final_lr_ratio}")


class MuonAdamW(Optimizer):
    """Muon and AdamW as a single optimizer for schedules, checkpoints and Lightning.

    A convolution whose stride equals its kernel size (the patch embedding) is a matrix in all but shape; Muon updates
    it through a flat view. Muon needs whole matrices: each process gathers sharded matrices one at a time and keeps its
    own part.
    """

    def __init__(self, matrices: list[nn.Parameter], rest: list[nn.Parameter], config: OptimizerConfig) -> None:
        rest_lr = config.lr if config.rest_lr is None else config.rest_lr
        groups: list[dict[str, Any]] = []
        self._adamw: AdamW | None = None
        if matrices:
            any_matrix = nn.Parameter(torch.empty(1, 1))
            settings = Muon(
                [any_matrix], lr=config.lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
            )
            groups.append({**settings.param_groups[0], "params": matrices})
        if rest:
            self._adamw = _adamw(rest, rest_lr, config)
            groups += self._adamw.param_groups
        self._has_matrices = bool(matrices)
        super().__init__(groups, {"lr": config.lr})
        self._share()

    def _share(self) -> None:
        """Let AdamW use the same parameter groups and state that schedules and checkpoints see."""
        if self._adamw is not None:
            self._adamw.param_groups = self.param_groups[-1:]
            self._adamw.state = self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Step Muon and AdamW; `closure` recomputes the loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._has_matrices:
            group = self.param_groups[0]
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_matrix(parameter, parameter.grad, group)
        if self._adamw is not None:
            self._adamw.step()
        return loss

    def _step_matrix(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        tensors = (parameter, gradient, state["momentum_buffer"])
        stepped, gradient, momentum = (whole(tensor).flatten(1) for tensor in tensors)
        momentum.lerp_(gradient, 1 - group["momentum"])
        update = gradient.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
        update = orthogonalized(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
        stepped.mul_(1 - group["lr"] * group["weight_decay"])
        # An orthogonal matrix has entries of 1 / sqrt(longest side); AdamW's updates have an RMS of about 0.2.
        stepped.add_(update, alpha=-group["lr"] * 0.2 * max(stepped.shape) ** 0.5)
        for tensor, whole_tensor in ((parameter, stepped), (state["momentum_buffer"], momentum)):
            if isinstance(tensor, DTensor):
                store(tensor, whole_tensor.view(tensor.shape))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore both parts."""
        super().load_state_dict(state_dict)
        self._share()


def orthogonalized(update_PQ: Tensor, coefficients: tuple[float, float, float], n_steps: int, eps: float) -> Tensor:
    """Bring the singular values of an update near 1, by Newton-Schulz iteration.

    `torch.optim.Muon` computes in bfloat16 on every device. A processor without AVX-512 multiplies bfloat16 eight times
    slower than float32, so matrices on the CPU are computed in float32.
    """
    a, b, c = coefficients
    is_tall = update_PQ.shape[0] > update_PQ.shape[1]
    wide = update_PQ.T if is_tall else update_PQ
    wide = wide.float() if wide.device.type == "cpu" else wide.bfloat16()
    wide = wide / wide.norm().clamp(min=eps)
    for _ in range(n_steps):
        gram_PP = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram_PP, gram_PP, gram_PP, beta=b, alpha=c), wide, beta=a)
    return (wide.T if is_tall else wide).to(update_PQ.dtype)


def make_optimizer(module: nn.Module, config: OptimizerConfig, total_steps: int) -> tuple[Optimizer, LambdaLR]:
    """The optimizer of a module's trainable parameters and its schedule, stepped once per optimizer step.

    Raises:
        ConfigError: Nothing is trainable, or the learning rate is too small to move weights in half precision.
    """
    trained = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    if not trained:
        raise ConfigError(
            "policy.frozen: every part of the policy is frozen, so nothing would be trained. Remove a part."
        )
    _check_precision(trained, config)
    optimizer: Optimizer
    if config.name == "muon":
        # Embeddings and the output head are tables of vectors, not maps between hidden spaces.
        tables = ("embed_tokens", "pos_embed", "lm_head")
        is_hidden = [p.ndim >= 2 and not any(table in name for table in tables) for name, p in trained]
        matrices = [p for (_, p), hidden in zip(trained, is_hidden, strict=True) if hidden]
        rest = [p for (_, p), hidden in zip(trained, is_hidden, strict=True) if not hidden]
        optimizer = MuonAdamW(matrices, rest, config)
    else:
        parameters = [parameter for _, parameter in trained]
        optimizer = _adamw(parameters, config.lr, config)
    return optimizer, LambdaLR(optimizer, lambda step: lr_ratio(step, config, total_steps))


def _adamw(parameters: list[nn.Parameter], lr: float, config: OptimizerConfig) -> AdamW:
    # One kernel for each parameter, except for those of `plan`, which have no memory.
    is_fused = {parameter.device.type for parameter in parameters} <= {"cpu", "cuda"}
    return AdamW(parameters, lr=lr, betas=config.betas, weight_decay=config.weight_decay, fused=is_fused)


def _check_precision(trained: list[tuple[str, nn.Parameter]], config: OptimizerConfig) -> None:
    rates = {"lr": config.lr} if config.rest_lr is None else {"lr": config.lr, "rest_lr": config.rest_lr}
    argument, rate = min(rates.items(), key=lambda item: item[1])
    half = [(name, p.dtype) for name, p in trained if p.dtype in (torch.bfloat16, torch.float16)]
    if half and rate < SMALLEST_HALF_PRECISION_LR:
        name, dtype = half[0]
        raise ConfigError(
            f"optimizer.{argument}: expected at least {SMALLEST_HALF_PRECISION_LR:g} for weights in {dtype} ({name} "
            f"and {len(half) - 1} others), got {rate:g}. Rounding would lose most steps. Call "
            "`Policy.prepare_training` first: it makes the weights float32 and still computes in policy.dtype."
        )


def lr_ratio(step: int, config: OptimizerConfig, total_steps: int) -> float:
    """Learning rate at `step` divided by the peak."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant" or total_steps <= config.warmup_steps:
        return 1.0
    progress = min(1.0, (step - config.warmup_steps) / (total_steps - config.warmup_steps))
    falling = 1 - progress if config.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return config.final_lr_ratio + (1 - config.final_lr_ratio) * falling

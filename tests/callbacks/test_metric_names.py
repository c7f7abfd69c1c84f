"""docs/metrics.md lists exactly the metrics that the code logs."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import torch

from cv_lightning.evaluation.metrics import TrajectoryMetrics
from cv_lightning.types import Reply, RewardBreakdown, Sample, ToolCall, Trajectory, Turn
from modules.policy_gradient import PolicyGradientConfig, policy_gradient_loss
from modules.sampler_correction import SamplerCorrection
from sandbox import Observation

ROOT = Path(__file__).parents[2]
KINDS = ("data", "train", "reward", "rollout", "rl", "time", "components", "tools", "health", "throughput")
LISTED = {
    name
    for row in (ROOT / "docs/metrics.md").read_text(encoding="utf-8").splitlines()
    if row.startswith("| `")
    for name in re.findall(r"`([^`]+)`", row.split("|")[1])
}
NAMES = {name for name in LISTED if name.startswith(tuple(f"{kind}/" for kind in KINDS))}

#: Logged as `rl/<metric of the loss>`; the table lists each metric of the loss.
LOSS = "rl/<>"


def in_code() -> set[str]:
    """All strings in modules/ and callbacks/ that name a metric; `<>` replaces each value of an f-string."""
    names = set()
    for path in [*(ROOT / "modules").rglob("*.py"), *(ROOT / "callbacks").rglob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        parts = {id(value) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for value in node.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                text = "".join(str(part.value) if isinstance(part, ast.Constant) else "<>" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
                text = node.value
            else:
                continue
            if re.fullmatch(rf"({'|'.join(KINDS)})/[\w<>/]+", text):
                names.add(text)
    return names


def test_table_and_code_name_the_same_metrics() -> None:
    code = in_code()
    assert LOSS in code
    patterns = {re.sub("<[^>]*>", "<>", name): name for name in NAMES}
    assert not [name for name in code - {LOSS} if not any(covers(pattern, name) for pattern in patterns)]
    of_loss = {f"rl/{name}" for name in loss_metrics()}
    made_up = {name for name in patterns if not any(covers(one, name) for one in code - {LOSS})}
    assert made_up == of_loss - code


def covers(pattern: str, name: str) -> bool:
    """Whether a name matches a pattern, or the pattern matches the name: `<>` stands for any part."""
    parts, others = pattern.split("/"), name.split("/")
    return len(parts) == len(others) and all("<>" in (a, b) or a == b for a, b in zip(parts, others, strict=True))


def loss_metrics() -> set[str]:
    logprobs_BT = torch.zeros(1, 2)
    result = policy_gradient_loss(
        PolicyGradientConfig(kl_coefficient=0.1, entropy_coefficient=0.1),
        logprobs_BT=logprobs_BT,
        sampler_logprobs_BT=logprobs_BT,
        advantages_B=torch.ones(1),
        is_trained_BT=torch.ones(1, 2, dtype=torch.bool),
        divisor=torch.tensor(2.0),
        weight_B=torch.ones(1),
        reference_logprobs_BT=logprobs_BT,
        entropy_BT=logprobs_BT,
        correction=SamplerCorrection(),
    )
    return {"loss", *result.totals}


def test_table_lists_the_rates_of_the_evaluation() -> None:
    metrics = TrajectoryMetrics()
    # A failed call and its correction, so that every rate has something to count.
    turns = [Turn("", Reply(call=ToolCall("")), Observation(status)) for status in ("error", "ok")]
    metrics.update([Trajectory(Sample("0", "", (), ""), turns)], [RewardBreakdown({}, True)])
    rates = {name.split("/")[0] for name in metrics.compute()}
    assert rates == {name for name in LISTED if "/" not in name}
    assert {"val/<rate>/<label>", "test/<rate>/<label>"} <= LISTED

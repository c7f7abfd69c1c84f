"""The sampler for the policy of a command: the policy itself, or an engine."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cv_lightning.errors import ConfigError
from cv_lightning.rollout import SamplingPolicy
from modules.policy.policy import Policy


@contextmanager
def speaking(policy: Policy, engine: Sequence[str] | None) -> Iterator[SamplingPolicy]:
    """The policy or engine that samples while the block lasts; an engine that is started here ends with the block.

    Args:
        policy: Policy in evaluation mode.
        engine: The values of `--engine`: addresses of running servers, or the folder of an environment from which to
            start a server; None: the policy samples.

    Raises:
        ConfigError: `engine` is neither addresses nor one folder, or there is no vLLM in the folder.
        EngineError: The engine does not start, does not answer, or has other settings than the policy.
    """
    if engine is None:
        yield policy
        return
    from modules.samplers.vllm.launch import Launch
    from modules.samplers.vllm.sampler import VLLM

    if all(where.startswith(("http://", "https://")) for where in engine):
        sampler = VLLM(engine)
    elif len(engine) == 1:
        folder = Path("runs/engine") / time.strftime("%Y-%m-%d_%H-%M-%S")
        sampler = VLLM(launch=Launch(engine[0], str(folder)))
        print(f"starting the engine (log: {folder}/server-0.log)", file=sys.stderr, flush=True)
    else:
        raise ConfigError(f"--engine: expected one folder, or addresses that begin with http, got {' '.join(engine)}.")
    sampler.attach(policy)
    try:
        sampler.refresh()
        with sampler.speaking() as speaker:
            yield speaker
    finally:
        sampler.close()

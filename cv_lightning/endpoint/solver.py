"""A model behind an OpenAI-compatible server, as a policy for the evaluator: see `docs/serving.md`."""

from __future__ import annotations

import copy
import hashlib
import json
import threading
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, get_args

from cv_lightning.endpoint.client import Endpoint
from cv_lightning.endpoint.messages import Dialogue, ImageEncoding, ToolMode, default_prompt
from cv_lightning.endpoint.meter import EndpointError, RequestError
from cv_lightning.endpoint.reply import ChatReply
from cv_lightning.errors import ConfigError
from cv_lightning.frames import see_result, view_question
from cv_lightning.rollout import end_after, observe
from cv_lightning.solver import Solver
from cv_lightning.tools.choose import make_toolbox
from cv_lightning.tools.toolbox import Toolbox, ToolboxName
from cv_lightning.types import Sample, StopReason, Trajectory, Turn
from sandbox import Limits, ToolExecutor
from sandbox.executor import LaneName


class EndpointSolver(Solver):
    """Asks a model behind a server, and executes the code that the model writes on this machine.

    Args:
        endpoint: The model.
        tools: How tools are offered. "native": by `tools` of the request. "text": by the system prompt, in the format
            on which our policies are trained. "none": not at all.
        system_prompt: Text of the system turn; None for the default of `tools`, "" for no system turn.
        max_turns: Number of replies of the model; a tool call in the last reply is not executed. The calls of one reply
            are executed in order, and each call is a turn of the trajectory.
        max_new_tokens: Longest turn, sent as `max_tokens`.
        temperature: Softmax temperature; 0 takes the most probable token.
        seed: Seed to send if the temperature is not 0.
        at_once: Number of questions that are asked at the same time.
        give_up_after: The run ends after this many failed questions in a row; earlier answers are safe.
        images: How images are encoded.
        lane: The executor's lane that runs the tool.
        limits: Limits of one tool call.
        toolbox: The tools that it offers: "code", "named", or a `cv_lightning.tools.Toolbox`.
        announce_sizes: Whether each image comes with its number and size ("image 0: 3840 x 2160"). None: only if
            `tools` is "native". Our own served policies get the same announcements as in training.

    Raises:
        ConfigError: A value is out of range.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        tools: ToolMode = "native",
        system_prompt: str | None = None,
        max_turns: int = 4,
        max_new_tokens: int = 1024,
        temperature: float = 0.0,
        seed: int = 0,
        at_once: int = 8,
        give_up_after: int = 20,
        images: ImageEncoding | None = None,
        lane: LaneName = "auto",
        limits: Limits | None = None,
        toolbox: Toolbox | ToolboxName = "code",
        announce_sizes: bool | None = None,
    ) -> None:
        if min(max_turns, max_new_tokens, at_once, give_up_after) < 1 or temperature < 0:
            raise ConfigError(
                "EndpointSolver: expected max_turns, max_new_tokens, at_once, give_up_after >= 1 and temperature >= 0, "
                f"got {max_turns}, {max_new_tokens}, {at_once}, {give_up_after}, {temperature}"
            )
        if tools not in get_args(ToolMode):
            known = ", ".join(get_args(ToolMode))
            raise ConfigError(f"EndpointSolver: tools: expected one of {known}, got {tools!r}")
        self.endpoint = endpoint
        self.mode: ToolMode = tools
        self.toolbox = make_toolbox(toolbox)
        self.toolbox.units(())  # raises if coordinates refer to images as a local policy sees them
        self.system_prompt = default_prompt(tools, self.toolbox) if system_prompt is None else system_prompt
        self.announces_sizes = tools == "native" if announce_sizes is None else announce_sizes
        self.max_turns = max_turns
        self.at_once = at_once
        self.give_up_after = give_up_after
        self.images = images or ImageEncoding()
        self.lane: LaneName = lane
        self.limits = limits or Limits()
        self._settings: dict[str, Any] = {"temperature": temperature, "max_tokens": max_new_tokens}
        if temperature > 0:
            self._settings["seed"] = seed
        self._executor: ToolExecutor | None = None
        self._lock = threading.Lock()
        self._n_failed_in_a_row = 0
        self._stop: EndpointError | None = None
        self._is_interrupted = False

    def fingerprint(self) -> str:
        """A hash of the server, the model's name, the prompt, the sampling and the tool's settings."""
        settings = {
            "endpoint": self.endpoint.identity(),
            "tools": [self.mode, self.lane, asdict(self.limits), self.toolbox.describe()],
            "system_prompt": self.system_prompt,
            "max_turns": self.max_turns,
            "sampling": self._settings,
            "images": asdict(self.images),
            **({"announces_sizes": True} if self.announces_sizes else {}),
        }
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]

    def without_tools(self) -> EndpointSolver:
        """The same model with the same sampling, asked once in the mode "none".

        A custom system prompt is kept, except in the mode "text", in which the prompt itself offers the tools.
        """
        alone = copy.copy(self)
        is_own = self.mode != "text" and self.system_prompt != default_prompt(self.mode, self.toolbox)
        alone.mode, alone.max_turns, alone.announces_sizes, alone._executor = "none", 1, False, None
        alone.system_prompt = self.system_prompt if is_own else default_prompt("none", self.toolbox)
        return alone

    def solve(self, samples: Sequence[Sample]) -> list[Trajectory | None]:
        """Ask about samples in parallel; a question that fails is left out, with a warning.

        Raises:
            EndpointError: The server refuses every request (a wrong key, an unknown model), the budget is spent, or
                `give_up_after` questions in a row failed. Answers that came before are returned first; the next call
                then raises, or the same call if it has no answers.
        """
        if self._stop is not None:
            raise self._stop
        self._is_interrupted = False
        if self._executor is None:
            self._executor = ToolExecutor(lane=self.lane, limits=self.limits)
        self.endpoint.model_name()
        pool = ThreadPoolExecutor(max_workers=self.at_once)
        try:
            solved = list(pool.map(self._guarded, samples))
        except BaseException:
            self._is_interrupted = True  # threads end after the reply for which they wait
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        pool.shutdown()
        if self._stop is not None:
            if not any(solved):
                raise self._stop
            warnings.warn(f"{len(solved) - sum(map(bool, solved))} questions were left out. {self._stop}", stacklevel=2)
        return solved

    def _guarded(self, sample: Sample) -> Trajectory | None:
        if self._stop is not None or self._is_interrupted:
            return None
        try:
            trajectory = self._play(sample)
        except EndpointError as error:
            self._stop = self._stop or error
            return None
        except RequestError as error:
            warnings.warn(f"Left out question {sample.id!r}. {self.endpoint.url}: {error}", UserWarning, stacklevel=2)
            self._count_failure(error)
            return None
        self._n_failed_in_a_row = 0
        return trajectory

    def _count_failure(self, error: RequestError) -> None:
        with self._lock:
            self._n_failed_in_a_row += 1
            if self._n_failed_in_a_row >= self.give_up_after and self._stop is None:
                self._stop = EndpointError(
                    f"{self.endpoint.url}: {self._n_failed_in_a_row} questions in a row failed, last with: {error}. "
                    "Earlier answers are safe. Fix the cause, then run the same command again to continue."
                )

    def _play(self, sample: Sample) -> Trajectory:
        trajectory = Trajectory(sample, images=view_question(sample))
        dialogue = Dialogue(
            sample, self.mode, self.system_prompt, self.images, self.toolbox, announces_sizes=self.announces_sizes
        )
        settings = self._settings | {"tools": dialogue.tools}
        n_shown = len(trajectory.images)
        for number in range(self.max_turns):
            if self._is_interrupted:
                raise EndpointError("interrupted")
            started = time.perf_counter()
            try:
                chat = self.endpoint.chat(dialogue.messages, settings)
            except RequestError as error:
                if number == 0 or not error.is_too_long:
                    raise
                del trajectory.images[n_shown:]  # the model has never been shown them
                trajectory.stop_reason = StopReason.CONTEXT_FULL
                break
            n_shown = len(trajectory.images)
            trajectory.adapted = tuple(dict.fromkeys([*trajectory.adapted, *chat.adapted]))
            self._take(chat, trajectory, dialogue, time.perf_counter() - started, number == self.max_turns - 1)
            if trajectory.stop_reason is not None:
                break
        return trajectory

    def _take(self, chat: ChatReply, trajectory: Trajectory, dialogue: Dialogue, wall_s: float, is_last: bool) -> None:
        """Append a reply, and execute its calls in order."""
        turns = dialogue.append_reply(chat)
        trajectory.stop_reason = end_after(turns[-1][1], chat.finish_reason != "length", is_last)
        for number, (text, reply) in enumerate(turns):
            trajectory.turns.append(Turn(text, reply, wall_s=wall_s if number == 0 else 0.0))
            if trajectory.stop_reason is None:
                self._observe(trajectory, dialogue)

    def _observe(self, trajectory: Trajectory, dialogue: Dialogue) -> None:
        if self._executor is None:
            raise ValueError("EndpointSolver: expected an executor, got none: the solver is closed")
        (observation,) = observe([trajectory], self._executor)
        dialogue.append_observation(observation)
        see_result(trajectory)

    def usage(self) -> dict[str, float]:
        """Requests, tokens and cost so far."""
        return self.endpoint.counts()

    def close(self) -> None:
        """End the tool's workers."""
        if self._executor is not None:
            self._executor.close()
            self._executor = None

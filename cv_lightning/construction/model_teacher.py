"""A model behind an OpenAI-compatible server as a teacher: it gets the metadata of each turn and writes the turn."""

from __future__ import annotations

import json
from typing import Any

from cv_lightning.construction.plan import EpisodePlan, PlannedStep
from cv_lightning.construction.teacher import Teacher, box_in_view
from cv_lightning.endpoint.client import Endpoint
from cv_lightning.endpoint.messages import Dialogue, ImageEncoding
from cv_lightning.endpoint.reply import ChatReply
from cv_lightning.errors import ConfigError
from cv_lightning.tools.choose import make_toolbox
from cv_lightning.tools.toolbox import ToolboxName
from cv_lightning.types import Trajectory

#: The system prompt, followed by the prompt of the tools.
INSTRUCTIONS = """You write training data: one turn at a time of a conversation in which an assistant answers a \
question about an image with the help of tools. After each user turn you find metadata in <metadata></metadata>: what \
was done to the image, and what this turn has to do. Write exactly this one turn, as an assistant would who has only \
the images and the question: reason in one to four sentences from what can be seen in the last image, then make the \
one call, or give the answer. Never speak of the metadata, of boxes or answers that were given to you, or of \
instructions. Coordinates are pixels of the image that the call works on."""

_DOINGS = {
    "rotate_90": "turn the last image by 90 degrees counter-clockwise (the whole of it stays visible)",
    "rotate_180": "turn the last image by 180 degrees",
    "rotate_270": "turn the last image by 90 degrees clockwise (the whole of it stays visible)",
    "flip_horizontal": "mirror the last image, left against right",
    "flip_vertical": "flip the last image, top against bottom",
}


class ModelTeacher(Teacher):
    """Asks a model for every turn; its calls are executed and checked like those of any teacher.

    The model gets the answer only in the last turn, so that earlier reasoning cannot reveal it.

    Args:
        endpoint: The model.
        temperature: Sampling temperature.
        max_new_tokens: Maximum length of a turn, sent as `max_tokens`.
        seed: Sent with each request, plus the number of the attempt.
        images: Encoding of images in requests. Boxes are in pixels of the whole image, so its limit should not reduce
            images.
        toolbox: "code" or "named".
    """

    is_remote = True

    def __init__(
        self,
        endpoint: Endpoint,
        temperature: float = 0.7,
        max_new_tokens: int = 1024,
        seed: int = 0,
        images: ImageEncoding | None = None,
        toolbox: ToolboxName = "code",
    ) -> None:
        if temperature < 0 or max_new_tokens < 1:
            raise ConfigError(
                f"teacher: expected temperature >= 0 and max_new_tokens >= 1, got {temperature}, {max_new_tokens}"
            )
        tools = make_toolbox(toolbox)
        self.endpoint = endpoint
        self.toolbox = toolbox
        self._images = images or ImageEncoding()
        self._prompt = f"{INSTRUCTIONS}\n\n{tools.system_prompt}"
        self._settings = {"temperature": temperature, "max_tokens": max_new_tokens}
        self._seed = seed

    def identity(self) -> dict[str, Any]:
        """The model and its settings, without a request."""
        return {
            "name": "model",
            "url": self.endpoint.url,
            "model": self.endpoint.model,
            "extra": self.endpoint.extra,
            "toolbox": self.toolbox,
            "seed": self._seed,
            **self._settings,
        }

    def usage(self) -> dict[str, float]:
        """Requests, tokens and cost so far."""
        return self.endpoint.counts()

    def write(self, plan: EpisodePlan, trajectory: Trajectory, step: PlannedStep) -> str:
        """The text of the next turn; raises `EndpointError` and `RequestError`."""
        dialogue = Dialogue(plan.sample, "text", self._prompt, self._images, make_toolbox(self.toolbox))
        for turn in trajectory.turns:
            dialogue.append_reply(ChatReply(turn.text))
            if turn.observation is not None:
                dialogue.append_observation(turn.observation)
        # The note is added to the last turn, because a server may refuse two user turns in a row.
        note = f"\n<metadata>\n{json.dumps(turn_metadata(plan, trajectory, step), ensure_ascii=False)}\n</metadata>"
        dialogue.messages[-1]["content"].append({"type": "text", "text": note})
        # Turns of an attempt share a seed, so a repeated request hits the cache, even after an interruption.
        settings = {**self._settings, "seed": (self._seed + plan.attempt) % 2**31}
        return self.endpoint.chat(dialogue.messages, settings).text


def turn_metadata(plan: EpisodePlan, trajectory: Trajectory, step: PlannedStep) -> dict[str, Any]:
    """The metadata that the teacher gets for its turn, in plain values."""
    view = trajectory.images[-1]
    told: dict[str, Any] = {
        "kind": plan.kind,
        "done_to_the_image": [name for name in plan.sample.transforms if name != "crop"],
        "turn": f"{len(trajectory.turns) + 1} of {len(plan.steps)}",
        "image_index": len(trajectory.images) - 1,
        "image_size": list(view.image.size),
    }
    if trajectory.turns and (last := trajectory.turns[-1].observation) is not None and last.status != "ok":
        told["fix"] = "the last call failed: say what was wrong with it, and do it right"
    if step.tool == "answer":
        return told | {"do": "give the answer", "answer": plan.sample.answer}
    if step.box is not None:
        told |= {"do": "cut out the box of the last image", "box": list(box_in_view(trajectory, step.box))}
    else:
        told |= {"do": _DOINGS[step.tool]}
    if step.is_fault:
        told["mistake"] = (
            "this call must fail with an error: write it with one mistake that a programmer makes (a method that does "
            "not exist, an argument that does not fit), and do not let the reasoning know of it"
        )
    return told

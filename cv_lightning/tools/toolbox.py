"""The tools of a policy, and the parser of its calls."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, Literal, get_args

from cv_lightning.errors import ConfigError
from cv_lightning.tools.models import ModelTool
from cv_lightning.tools.parameters import ArgumentError, ToolParameter, image_index, object_schema, read_arguments
from cv_lightning.tools.reply_text import SHAPE, decode_arguments, decode_payload
from cv_lightning.types import Reply, ToolCall
from sandbox import ModelCall

#: The image that a call works on, in words and as a parameter.
WHICH_IMAGE = "0-based, over the images of the question and then each result"
IMAGE_INDEX: Mapping[str, ToolParameter] = {"image_index": image_index(WHICH_IMAGE, default=0)}

#: Names of toolboxes in configs: all tools of a kind, without models.
ToolboxName = Literal["code", "named"]

#: The coordinates of boxes that a policy writes. "pixels": pixels of the image itself, even if the policy sees it
#: reduced. "announced": the same, and the policy is told each image's size. "seen": pixels of the image as the policy
#: sees it (Qwen2.5-VL). "thousandths": 0 to 1000 over width and height (Qwen3-VL).
Coordinates = Literal["pixels", "announced", "seen", "thousandths"]

#: (width, height) in pixels.
Size = tuple[int, int]
#: For each image: its pixels per unit of the policy's coordinates, in x and in y.
Units = Sequence[tuple[float, float]]

_PROMPT = """You are a helpful assistant that can look at images through {means}.

# Tools
You may call one function per turn to help with the user query. \
You are provided with function signatures within <tools></tools> XML tags:
<tools>
{schemas}
</tools>

Reason inside <think></think> first. Then either call {article} function within <tool_call></tool_call> XML tags:
<tool_call>
{example}
</tool_call>
or give the final answer within <answer></answer>."""

_ANNOUNCED = """

Each image is announced by its index and its size in pixels (width x height). Coordinates are pixels of that size."""


class Toolbox(ABC):
    """The tools of a policy. It describes them to the policy, and parses the text of a call into a `ToolCall`.

    Args:
        models: Tools that are models, offered as well. They return boxes in pixels.
        coordinates: Coordinates of the boxes that the policy writes.

    Raises:
        ConfigError: Two tools have the same name, or the tools do not support these coordinates.
    """

    #: Its name in configs.
    kind: ClassVar[ToolboxName]
    #: The word for the tools in the system prompt: "look at images through {means}".
    means: ClassVar[str]
    #: Example of the text between the tags of a tool call.
    example: ClassVar[str]

    def __init__(self, models: Sequence[ModelTool] = (), coordinates: Coordinates = "pixels") -> None:
        self.coordinates: Coordinates = coordinates
        self.models = {model.name: model for model in models}
        if len(self.models) < len(models):
            raise ConfigError(
                f"toolbox.models: expected different names, got {', '.join(model.name for model in models)}."
            )
        if coordinates not in get_args(Coordinates):
            known = ", ".join(get_args(Coordinates))
            raise ConfigError(f"toolbox.coordinates: expected one of {known}, got {coordinates!r}.")
        if coordinates in ("seen", "thousandths") and (self.kind == "code" or models):
            raise ConfigError(
                f"toolbox.coordinates: expected 'pixels' or 'announced', got {coordinates!r}. Code and models work in "
                "pixels of the image."
            )

    @property
    @abstractmethod
    def own_schemas(self) -> list[dict[str, Any]]:
        """The tools that are not models, in the format of `tools` in an OpenAI-compatible request."""

    @abstractmethod
    def read_own(self, name: Any, arguments: dict[str, Any], units: Units) -> Reply:
        """Read a call of a tool that is not a model; `name` may be any JSON value."""

    @cached_property
    def schemas(self) -> list[dict[str, Any]]:
        """All tools, in the format of `tools` in OpenAI-compatible requests and in Hugging Face's chat templates."""
        return self.own_schemas + [function_schema(m.name, m.description, m.parameters) for m in self.models.values()]

    @property
    def names(self) -> list[str]:
        """Names of all tools, in the order in which the policy sees them."""
        return [schema["function"]["name"] for schema in self.schemas]

    def describe(self) -> dict[str, Any]:
        """The tools as plain values, which are part of an exported policy."""
        described: dict[str, Any] = {"kind": self.kind, "tools": self.names}
        return described if self.coordinates == "pixels" else described | {"coordinates": self.coordinates}

    @property
    def announces(self) -> bool:
        """Whether the policy is told the size of each image."""
        return self.coordinates == "announced"

    def units(self, sizes: Sequence[Size], seen_size: Callable[[Size], Size] | None = None) -> Units:
        """Pixels per unit of a call's coordinates.

        Args:
            sizes: Sizes of the images of a trajectory.
            seen_size: Size of an image -> its size as the policy sees it.

        Returns:
            Pixels per unit in x and y, for each image; empty if coordinates are pixels.

        Raises:
            ConfigError: Coordinates are pixels of the seen image, and `seen_size` is None.
        """
        if self.coordinates == "thousandths":
            return [(width / 1000, height / 1000) for width, height in sizes]
        if self.coordinates != "seen":
            return ()
        if seen_size is None:
            raise ConfigError(
                "toolbox.coordinates: expected 'announced' or 'thousandths', got 'seen'. Only a policy whose weights "
                "are here can say at which size it sees an image."
            )
        seen = [(size, seen_size(size)) for size in sizes]
        return [(width / seen_width, height / seen_height) for (width, height), (seen_width, seen_height) in seen]

    @property
    def article(self) -> str:
        """The article before "function" in the prompt: "the" if there is one tool, else "a"."""
        return "the" if len(self.schemas) == 1 else "a"

    @property
    def system_prompt(self) -> str:
        """The system prompt for a pre-trained model, in the wording of Qwen's chat template.

        A model trained from scratch needs a shorter prompt.
        """
        schemas = "\n".join(json.dumps(schema, ensure_ascii=False) for schema in self.schemas)
        prompt = _PROMPT.format(means=self.means, article=self.article, schemas=schemas, example=self.example)
        return prompt + _ANNOUNCED if self.announces else prompt

    def read(self, payload: str, units: Units = ()) -> Reply:
        """Read the text between the tags of a tool call.

        Args:
            payload: The text.
            units: See `units`.

        Returns:
            A call, possibly one that cannot be run (`ToolCall.fault`), or a fault. It never raises.
        """
        content, fault = decode_payload(payload)
        return self.read_content(content, units) if fault is None else Reply(fault=fault)

    def read_content(self, content: Any, units: Units = ()) -> Reply:
        """Like `read`, for the parsed JSON value of a call."""
        content = content if isinstance(content, dict) else {}
        content = content | {"arguments": decode_arguments(content.get("arguments"))}
        if not isinstance(content["arguments"], dict):
            return Reply(fault=f"The tool call must be one object, {SHAPE}.")
        name, arguments = content.get("name"), content["arguments"]
        model = self.models.get(name) if isinstance(name, str) else None
        if model is None:
            return self.read_own(name, arguments, units)

        def make(values: dict[str, Any]) -> ToolCall:
            return ToolCall("result = image", model=ModelCall(model.name, model, values, model.wall_s, model.start_s))

        return read_checked(model.name, model.parameters, arguments, make)


def function_schema(name: str, description: str, parameters: Mapping[str, ToolParameter]) -> dict[str, Any]:
    """A tool that works on one of the images, in the format of OpenAI's `tools`."""
    arguments = object_schema({**parameters, **IMAGE_INDEX})
    return {"type": "function", "function": {"name": name, "description": description, "parameters": arguments}}


def read_checked(
    name: str,
    parameters: Mapping[str, ToolParameter],
    arguments: Mapping[str, Any],
    make: Callable[[dict[str, Any]], ToolCall],
    units: Units = (),
) -> Reply:
    """A call of a tool that works on one of the images.

    Args:
        name: Name of the tool.
        parameters: Parameters of a call besides the image.
        arguments: Arguments in the policy's call.
        make: Checked values -> the call on the first image.
        units: See `Toolbox.units`.

    Returns:
        The call, or a call with a fault if the schema does not allow the arguments.
    """
    try:
        values = read_arguments({**parameters, **IMAGE_INDEX}, arguments)
    except ArgumentError as error:
        return Reply(call=ToolCall("", name=name, fault=str(error)))
    index = values.pop("image_index")
    if 0 <= index < len(units):
        values |= {n: _in_pixels(values[n], units[index]) for n, parameter in parameters.items() if parameter.is_box}
    return Reply(call=replace(make(values), image_index=index, name=name))


def _in_pixels(box: Sequence[float], unit: tuple[float, float]) -> tuple[int, int, int, int]:
    """A box in whole pixels, at least one pixel wide and high."""
    x1, y1 = round(box[0] * unit[0]), round(box[1] * unit[1])
    return x1, y1, max(x1 + 1, round(box[2] * unit[0])), max(y1 + 1, round(box[3] * unit[1]))

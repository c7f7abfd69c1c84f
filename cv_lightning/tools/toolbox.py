"""The tools that a policy is offered, and how its calls are read."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, Literal

from cv_lightning.errors import ConfigError
from cv_lightning.tools.models import ModelTool
from cv_lightning.tools.parameters import ArgumentError, ToolParameter, image_index, object_schema, read_arguments
from cv_lightning.tools.reply_text import SHAPE, decode_arguments, decode_payload
from cv_lightning.types import Reply, ToolCall
from sandbox import ModelCall

#: Which image a call works on, in words and as a parameter.
WHICH_IMAGE = "0-based, over the images of the question and then each result"
IMAGE_INDEX: Mapping[str, ToolParameter] = {"image_index": image_index(WHICH_IMAGE, default=0)}

#: How configs name a toolbox: all tools of a kind, without models.
ToolboxName = Literal["code", "named"]

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


class Toolbox(ABC):
    """The tools of a policy. It says how they are described, and turns what a policy wrote into a `ToolCall`.

    Args:
        models: Tools that are models, offered beside the others.

    Raises:
        ConfigError: Two tools have one name.
    """

    #: Its name in configs.
    kind: ClassVar[ToolboxName]
    #: What the policy looks at images through.
    means: ClassVar[str]
    #: What it writes between the tags of a tool call.
    example: ClassVar[str]

    def __init__(self, models: Sequence[ModelTool] = ()) -> None:
        self.models = {model.name: model for model in models}
        if len(self.models) < len(models):
            raise ConfigError(f"toolbox.models: two have the same name: {', '.join(model.name for model in models)}.")

    @property
    @abstractmethod
    def own_schemas(self) -> list[dict[str, Any]]:
        """The tools but the models, as `tools` of an OpenAI-compatible request name them."""

    @abstractmethod
    def read_own(self, name: Any, arguments: dict[str, Any]) -> Reply:
        """A call of a tool that is no model; `name` is whatever the policy wrote."""

    @cached_property
    def schemas(self) -> list[dict[str, Any]]:
        """All tools as `tools` of an OpenAI-compatible request, and of Hugging Face's chat templates, name them."""
        return self.own_schemas + [function_schema(m.name, m.description, m.parameters) for m in self.models.values()]

    @property
    def names(self) -> list[str]:
        """Names of all tools, in the order in which they are offered."""
        return [schema["function"]["name"] for schema in self.schemas]

    def describe(self) -> dict[str, Any]:
        """The tools in plain values: part of an exported policy."""
        return {"kind": self.kind, "tools": self.names}

    @property
    def article(self) -> str:
        """The word before "tool": "the" if there is one, else "a"."""
        return "the" if len(self.schemas) == 1 else "a"

    @property
    def system_prompt(self) -> str:
        """Tells a pre-trained model, in the words of Qwen's chat template, what it may do.

        A model trained from scratch needs a shorter one.
        """
        schemas = "\n".join(json.dumps(schema, ensure_ascii=False) for schema in self.schemas)
        return _PROMPT.format(means=self.means, article=self.article, schemas=schemas, example=self.example)

    def read(self, payload: str) -> Reply:
        """Read the text between the tags of a tool call.

        Returns:
            A call, which may be one that cannot be run (`ToolCall.fault`), or a fault; never raises.
        """
        content, fault = decode_payload(payload)
        return self.read_content(content) if fault is None else Reply(fault=fault)

    def read_content(self, content: Any) -> Reply:
        """The same of the JSON value of a call."""
        content = content if isinstance(content, dict) else {}
        content = content | {"arguments": decode_arguments(content.get("arguments"))}
        if not isinstance(content["arguments"], dict):
            return Reply(fault=f"The tool call must be one object, {SHAPE}.")
        name, arguments = content.get("name"), content["arguments"]
        model = self.models.get(name) if isinstance(name, str) else None
        if model is None:
            return self.read_own(name, arguments)

        def make(values: dict[str, Any]) -> ToolCall:
            return ToolCall("result = image", model=ModelCall(model.name, model, values, model.wall_s, model.start_s))

        return read_checked(model.name, model.parameters, arguments, make)


def function_schema(name: str, description: str, parameters: Mapping[str, ToolParameter]) -> dict[str, Any]:
    """A tool that works on one of the images, in the form of OpenAI's `tools`."""
    arguments = object_schema({**parameters, **IMAGE_INDEX})
    return {"type": "function", "function": {"name": name, "description": description, "parameters": arguments}}


def read_checked(
    name: str,
    parameters: Mapping[str, ToolParameter],
    arguments: Mapping[str, Any],
    make: Callable[[dict[str, Any]], ToolCall],
) -> Reply:
    """A call of a tool that works on one of the images.

    Args:
        name: The tool.
        parameters: Of a call, beside the image.
        arguments: As the policy wrote them.
        make: The call on the first image, from checked values.

    Returns:
        The call, or one that cannot be run if the schema does not allow the arguments.
    """
    try:
        values = read_arguments({**parameters, **IMAGE_INDEX}, arguments)
    except ArgumentError as error:
        return Reply(call=ToolCall("", name=name, fault=str(error)))
    index = values.pop("image_index")
    return Reply(call=replace(make(values), image_index=index, name=name))

"""Named tools with JSON arguments: the fixed schema, as in OpenThinkIMG, that is compared with code-as-tool.

Each tool runs as the Pillow snippet that a policy with the code tool would write, so lanes, verified effects, rewards
and records are the same for both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cv_lightning.console.suggestions import did_you_mean
from cv_lightning.errors import ConfigError
from cv_lightning.tools.models import ModelTool
from cv_lightning.tools.parameters import ToolParameter, choice, integer, number, region, shown
from cv_lightning.tools.toolbox import Coordinates, Toolbox, Units, function_schema, read_checked
from cv_lightning.types import Reply, ToolCall


@dataclass(frozen=True)
class NamedTool:
    """One named tool.

    Attributes:
        description: Description of its effect for the policy.
        write: Checked arguments -> its Pillow call on `image`.
        parameters: Parameters of a call besides the image, by name.
    """

    description: str
    write: Callable[..., str]
    parameters: Mapping[str, ToolParameter] = field(default_factory=dict)


def _factor(description: str) -> dict[str, ToolParameter]:
    return {"factor": number(description, low=0, high=10)}


def _enhancer(name: str) -> Callable[..., str]:
    return lambda factor: f"ImageEnhance.{name}(image).enhance({factor!r})"


_FLIPS = {"horizontal": "ImageOps.mirror(image)", "vertical": "ImageOps.flip(image)"}

#: All named tools, in the order in which the policy sees them.
NAMED_TOOLS: dict[str, NamedTool] = {
    "crop": NamedTool(
        "Cut out a box.",
        lambda bbox: f"image.crop({bbox!r})",
        {"bbox": region("[x1, y1, x2, y2] in pixels of the image")},
    ),
    "rotate": NamedTool(
        "Turn the image counter-clockwise.",
        lambda angle: f"image.rotate({angle!r}, expand=True)",
        {"angle": number("degrees", low=-360, high=360)},
    ),
    "flip": NamedTool(
        "Mirror the image.",
        lambda direction: _FLIPS[direction],
        {"direction": choice("horizontal swaps left and right", options=tuple(_FLIPS))},
    ),
    "resize": NamedTool(
        "Enlarge or reduce the image.",
        lambda scale: f"image.resize((round(image.width * {scale!r}), round(image.height * {scale!r})))",
        {"scale": number("factor of both sides", low=0.1, high=8)},
    ),
    "contrast": NamedTool("Change the contrast.", _enhancer("Contrast"), _factor("0 is gray, 1 leaves it as it is")),
    "brightness": NamedTool(
        "Change the brightness.", _enhancer("Brightness"), _factor("0 is black, 1 leaves it as it is")
    ),
    "sharpness": NamedTool("Sharpen or soften.", _enhancer("Sharpness"), _factor("below 1 softens, above 1 sharpens")),
    "saturation": NamedTool("Change the colours.", _enhancer("Color"), _factor("0 is without colour")),
    "grayscale": NamedTool("Take out the colours.", lambda: "ImageOps.grayscale(image)"),
    "invert": NamedTool("Make a negative.", lambda: "ImageOps.invert(image)"),
    "autocontrast": NamedTool(
        "Stretch the contrast to the whole range.",
        lambda cutoff: f"ImageOps.autocontrast(image, cutoff={cutoff!r})",
        {"cutoff": number("percent of the darkest and lightest pixels to ignore", default=0, low=0, high=49)},
    ),
    "equalize": NamedTool("Spread the brightness evenly.", lambda: "ImageOps.equalize(image)"),
    "threshold": NamedTool(
        "Make what is lighter than a level white and the rest black.",
        lambda level: (
            f'Image.fromarray(cv2.threshold(np.array(image.convert("L")), {level!r}, 255, cv2.THRESH_BINARY)[1])'
        ),
        {"level": integer(default=128, low=0, high=255)},
    ),
    "blur": NamedTool(
        "Blur.",
        lambda radius: f"image.filter(ImageFilter.GaussianBlur({radius!r}))",
        {"radius": number("pixels", default=2, low=0, high=50)},
    ),
    "median": NamedTool(
        "Take out specks.",
        lambda size: f"image.filter(ImageFilter.MedianFilter({size!r}))",
        {"size": choice("side of the window in pixels", default=3, options=(3, 5, 7, 9))},
    ),
    "edges": NamedTool("Show the edges.", lambda: "image.filter(ImageFilter.FIND_EDGES)"),
    "pad": NamedTool(
        "Add a border.",
        lambda border, color: f"ImageOps.expand(image, border={border!r}, fill={color!r})",
        {
            "border": integer("width in pixels", low=1, high=1024),
            "color": choice(default="white", options=("white", "black", "gray")),
        },
    ),
}


#: The box of `crop` in coordinates other than pixels of the image.
_BOXES = {
    "seen": region("[x1, y1, x2, y2] in pixels of the image as you see it"),
    "thousandths": region("[x1, y1, x2, y2] from 0 to 1000 over the width and height of the image", high=1000),
}


class NamedTools(Toolbox):
    """Named tools with JSON arguments.

    Args:
        names: Names from `NAMED_TOOLS`, in the order in which the policy sees them; None for all.
        models: Tools that are models, offered as well.
        coordinates: Coordinates of the box of `crop`; the executed and recorded call has the box in pixels.

    Raises:
        ConfigError: A name is unknown or repeated, or models are combined with coordinates other than pixels.
    """

    kind = "named"
    means = "tools"
    example = '{"name": <function-name>, "arguments": <args-json-object>}'

    def __init__(
        self,
        names: Sequence[str] | None = None,
        models: Sequence[ModelTool] = (),
        coordinates: Coordinates = "pixels",
    ) -> None:
        super().__init__(models, coordinates)
        chosen = list(NAMED_TOOLS) if names is None else list(names)
        for name in chosen:
            if name not in NAMED_TOOLS:
                raise ConfigError(f"toolbox.names: no tool {name!r}. {did_you_mean(name, NAMED_TOOLS)}")
        if len({*chosen, *self.models}) < len(chosen) + len(self.models) or not chosen:
            raise ConfigError(
                f"toolbox: expected one or more tools with different names, got {[*chosen, *self.models]}"
            )
        self.tools = {name: NAMED_TOOLS[name] for name in chosen}
        if "crop" in self.tools and coordinates in _BOXES:
            self.tools["crop"] = replace(NAMED_TOOLS["crop"], parameters={"bbox": _BOXES[coordinates]})

    @property
    def own_schemas(self) -> list[dict[str, Any]]:
        """The named tools."""
        return [function_schema(name, tool.description, tool.parameters) for name, tool in self.tools.items()]

    def read_own(self, name: Any, arguments: dict[str, Any], units: Units) -> Reply:
        """A call of a named tool; a call that the schema does not allow fails, as the same code would."""
        tool = self.tools.get(name) if isinstance(name, str) else None
        if tool is None:
            fault = f"NameError: there is no tool {shown(name)}; the tools are {', '.join(self.names)}."
            return Reply(call=ToolCall("", name="", fault=fault))
        return read_checked(
            name, tool.parameters, arguments, lambda values: ToolCall(f"result = {tool.write(**values)}"), units
        )

"""The toolbox of a policy, from a config or from the folder of an exported policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from jsonargparse import ArgumentParser

from cv_lightning.errors import ConfigError
from cv_lightning.tools.code import CODE_TOOLS, CodeTools
from cv_lightning.tools.models import ModelTool
from cv_lightning.tools.named import NAMED_TOOLS, NamedTools
from cv_lightning.tools.read_codes import ReadCodes
from cv_lightning.tools.read_text import ReadText
from cv_lightning.tools.toolbox import Coordinates, Toolbox, ToolboxName
from cv_lightning.types import CODE_TOOL

#: All named tools, and no models.
NAMED = NamedTools()

#: Models that come with this project, by name.
MODELS: dict[str, type[ModelTool]] = {ReadCodes.name: ReadCodes, ReadText.name: ReadText}


def make_toolbox(wanted: Toolbox | ToolboxName | Mapping[str, Any]) -> Toolbox:
    """The toolbox of a config: an object, a name, or a mapping of `class_path` and `init_args`.

    Raises:
        ConfigError: No toolbox has this name.
    """
    if isinstance(wanted, Toolbox):
        return wanted
    if isinstance(wanted, Mapping):
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--toolbox", type=Toolbox)
        made: Toolbox = parser.instantiate_classes(parser.parse_object({"toolbox": dict(wanted)})).toolbox
        return made
    if wanted == "code":
        return CODE_TOOLS
    if wanted == "named":
        return NAMED
    raise ConfigError(f"toolbox: expected 'code', 'named' or a Toolbox, got {wanted!r}")


def restore_toolbox(described: Any) -> Toolbox:
    """The toolbox of a description by `Toolbox.describe`.

    Raises:
        ConfigError: The description is invalid, or names a model that does not come with this project.
    """
    kind, names = (described.get("kind"), described.get("tools")) if isinstance(described, dict) else (None, None)
    coordinates: Any = described.get("coordinates", "pixels") if isinstance(described, dict) else None
    if coordinates not in get_args(Coordinates):
        raise ConfigError(f"coordinates: expected one of {', '.join(get_args(Coordinates))}, got {coordinates!r}")
    if kind not in ("code", "named") or not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise ConfigError('expected {"kind": "code" or "named", "tools": [names]}')
    own = [CODE_TOOL] if kind == "code" else list(NAMED_TOOLS)
    missing = [name for name in names if name not in own and name not in MODELS]
    if missing:
        raise ConfigError(f"the policy was trained with the tool {missing[0]!r}, which does not come with this project")
    models = [MODELS[name]() for name in names if name not in own]
    if kind == "code":
        return CodeTools(models, coordinates)
    return NamedTools([name for name in names if name in own], models, coordinates)

"""The tools that a policy may call: code, named tools with JSON arguments, and models. See docs/named_tools.md."""

from cv_lightning.tools.choose import make_toolbox, restore_toolbox
from cv_lightning.tools.code import CodeTools
from cv_lightning.tools.models import ModelTool
from cv_lightning.tools.named import NamedTools
from cv_lightning.tools.toolbox import Toolbox, ToolboxName

__all__ = [
    "CodeTools",
    "ModelTool",
    "NamedTools",
    "Toolbox",
    "ToolboxName",
    "make_toolbox",
    "restore_toolbox",
]

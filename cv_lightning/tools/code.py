"""The code tool: Python on one of the images (arXiv 2512.03746)."""

from __future__ import annotations

import json
from typing import Any

from cv_lightning.tools.toolbox import IMAGE_INDEX, WHICH_IMAGE, Toolbox, Units
from cv_lightning.types import CODE_TOOL, Reply, ToolCall

#: The tool in the format of `tools` in an OpenAI-compatible request.
CODE_SCHEMA: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": CODE_TOOL,
        "description": "Run Python code on one of the images and look at the result. "
        "`image` is the chosen image (a PIL RGB image); PIL, cv2, np and math are imported; assign the new image to "
        "`result`.",
        "parameters": {
            "type": "object",
            "properties": {
                "code": {"type": "string"},
                "description": {"type": "string"},
                "image_index": {"type": "integer", "description": WHICH_IMAGE},
            },
            "required": ["code"],
        },
    },
}


class CodeTools(Toolbox):
    """The code tool, and optional model tools."""

    kind = "code"
    means = "code"
    example = json.dumps(
        {
            "name": CODE_TOOL,
            "arguments": {"code": "result = image.rotate(90, expand=True)", "description": "", "image_index": 0},
        }
    )

    @property
    def own_schemas(self) -> list[dict[str, Any]]:
        """The code tool."""
        return [CODE_SCHEMA]

    def read_own(self, name: Any, arguments: dict[str, Any], units: Units) -> Reply:
        """A call of the code tool."""
        if name != CODE_TOOL:
            known = ", ".join(map(repr, self.names))
            offer = f"the tools are {known}" if self.models else f"the only tool is {CODE_TOOL!r}"
            return Reply(fault=f"Unknown tool {name!r}; {offer}.")
        code = arguments.get("code")
        if not isinstance(code, str):
            return Reply(fault='"code" must be a string.')
        try:
            index = IMAGE_INDEX["image_index"].read(arguments.get("image_index", 0))
        except TypeError:
            return Reply(fault='"image_index" must be an integer.')
        return Reply(call=ToolCall(code=code, description=str(arguments.get("description", "")), image_index=index))


#: Toolbox of a policy by default.
CODE_TOOLS = CodeTools()
SYSTEM_PROMPT = CODE_TOOLS.system_prompt

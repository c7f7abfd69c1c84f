"""Images in a terminal, as colored half blocks: two pixels per character, for terminals with 24-bit colors."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from PIL import Image
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

Show = Literal["auto", "blocks", "none"]
SHOWS: tuple[Show, ...] = get_args(Show)

#: Largest image in pixels; it takes half as many lines.
_SIZE = (80, 80)


def can_show(console: Console, show: Show) -> bool:
    """Whether the console can show images; "blocks" accepts fewer colors."""
    has_colors = console.color_system == "truecolor" or (show == "blocks" and console.color_system is not None)
    return show != "none" and console.is_terminal and has_colors


def half_blocks(image: Image.Image, columns: int) -> Text:
    """An RGB image as text: a character's color is the upper pixel, its background the lower one."""
    small = image.copy()
    small.thumbnail((min(columns, _SIZE[0]), _SIZE[1]))
    small = small.crop((0, 0, small.width, small.height + small.height % 2))
    pixels_HWC = np.asarray(small)
    text = Text(no_wrap=True)
    for upper_row, lower_row in zip(pixels_HWC[::2].tolist(), pixels_HWC[1::2].tolist(), strict=True):
        for upper, lower in zip(upper_row, lower_row, strict=True):
            text.append("\u2580", Style(color=Color.from_rgb(*upper), bgcolor=Color.from_rgb(*lower)))
        text.append("\n")
    return text

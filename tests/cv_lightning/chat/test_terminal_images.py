"""Images in a terminal."""

from __future__ import annotations

import io

from PIL import Image
from rich.console import Console

from cv_lightning.chat.terminal_images import can_show, half_blocks


def test_images_are_shown_only_where_they_can_be() -> None:
    pipe = Console(file=io.StringIO())
    simple, rich = (Console(file=io.StringIO(), force_terminal=True, color_system=c) for c in ("standard", "truecolor"))
    shown = [[can_show(console, show) for show in ("auto", "blocks", "none")] for console in (pipe, simple, rich)]
    assert shown == [[False] * 3, [False, True, False], [True, True, False]]


def test_half_blocks_have_the_upper_pixel_before_the_lower() -> None:
    image = Image.new("RGB", (2, 3), (255, 0, 0))
    image.putpixel((0, 1), (0, 0, 255))
    text = half_blocks(image, 80)
    assert text.plain == "\u2580\u2580\n\u2580\u2580\n"
    style = text.spans[0].style
    assert str(style) == "#ff0000 on #0000ff"

"""Images in a terminal: the protocols of kitty, iTerm2 and sixel, or coloured half blocks.

A terminal is taken to show images only where its name says so: what it does not know would be printed as rubbish.
"""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Iterator, Mapping
from typing import Literal, get_args

import numpy as np
from PIL import Image

Protocol = Literal["none", "kitty", "iterm2", "sixel", "blocks"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)

#: Longest side of what is shown, in pixels; small images are enlarged by a whole number.
_SIDE = 480
_LARGE_ENOUGH = 160

#: Bytes of base64 in one escape sequence of kitty.
_KITTY_CHUNK = 4096

_KITTY_TERMS = ("xterm-kitty", "xterm-ghostty")
_SIXEL_TERMS = ("foot", "mlterm", "contour", "yaft")
_ITERM_PROGRAMS = ("iTerm.app", "WezTerm")


def detect(environment: Mapping[str, str], is_terminal: bool) -> Protocol:
    """What a terminal can show by its name; "none" in a multiplexer, which would have to pass it on."""
    term = environment.get("TERM", "")
    if not is_terminal or environment.get("TMUX") or environment.get("STY") or term.startswith(("screen", "tmux")):
        return "none"
    if term in _KITTY_TERMS:
        return "kitty"
    if environment.get("TERM_PROGRAM") in _ITERM_PROGRAMS:
        return "iterm2"
    return "sixel" if term.startswith(_SIXEL_TERMS) else "none"


def has_truecolour(environment: Mapping[str, str]) -> bool:
    """Whether a terminal says that it knows 24-bit colours."""
    return environment.get("COLORTERM", "") in ("truecolor", "24bit")


def encode(image: Image.Image, protocol: Protocol) -> str:
    """What to write to a terminal so that it shows an RGB image; "" for "none"."""
    if protocol == "none":
        return ""
    if protocol == "blocks":
        return _blocks(image, shutil.get_terminal_size().columns)
    shown = _fitted(image)
    if protocol == "sixel":
        return _sixel(shown)
    buffer = io.BytesIO()
    shown.save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    if protocol == "iterm2":
        return f"\x1b]1337;File=inline=1;size={len(buffer.getvalue())};preserveAspectRatio=1:{data}\x07\n"
    return "".join(_kitty(data)) + "\n"


def _fitted(image: Image.Image) -> Image.Image:
    width, height = image.size
    if max(width, height) < _LARGE_ENOUGH:
        factor = _LARGE_ENOUGH // max(width, height) + 1
        return image.resize((width * factor, height * factor), Image.Resampling.NEAREST)
    small = image.convert("RGB")
    small.thumbnail((_SIDE, _SIDE))
    return small


def _kitty(data: str) -> Iterator[str]:
    """A PNG in pieces; the first says what it is, and q=2 keeps the terminal from answering."""
    pieces = [data[start : start + _KITTY_CHUNK] for start in range(0, len(data), _KITTY_CHUNK)]
    for index, piece in enumerate(pieces):
        head = "a=T,f=100,q=2," if index == 0 else ""
        yield f"\x1b_G{head}m={int(index < len(pieces) - 1)};{piece}\x1b\\"


def _sixel(image: Image.Image) -> str:
    """Bands of six rows; in each, a row of characters for every colour (DEC VT3xx, sixel graphics)."""
    paletted = image.quantize(64)
    indices_HW = np.asarray(paletted)
    palette = np.asarray((paletted.getpalette() or [])[: 3 * 64]).reshape(-1, 3) * 100 // 255
    height, width = indices_HW.shape
    out = [f'\x1bPq"1;1;{width};{height}']
    out += [f"#{index};2;{r};{g};{b}" for index, (r, g, b) in enumerate(palette)]
    bits_6 = 1 << np.arange(6)
    for top in range(0, height, 6):
        band = indices_HW[top : top + 6]
        rows = []
        for colour in np.unique(band):
            values_W = ((band == colour) * bits_6[: len(band), None]).sum(0)
            rows.append(f"#{colour}{_runs(values_W + 63)}")
        out.append("$".join(rows) + "-")
    return "".join(out) + "\x1b\\\n"


def _runs(codes_W: np.ndarray) -> str:
    """Characters, repeated ones as a count."""
    starts = np.flatnonzero(np.diff(codes_W, prepend=-1))
    lengths = np.diff(np.append(starts, len(codes_W)))
    pairs = zip(codes_W[starts].tolist(), lengths.tolist(), strict=True)
    return "".join(chr(code) * n if n < 4 else f"!{n}{chr(code)}" for code, n in pairs)


def _blocks(image: Image.Image, columns: int) -> str:
    """Two pixels a character: the upper is the foreground of a half block, the lower its background."""
    small = image.convert("RGB")
    small.thumbnail((max(1, min(columns, 100)), 80))
    if small.height % 2:
        small = small.resize((small.width, small.height + 1))
    pixels_HWC = np.asarray(small)
    lines = []
    for upper, lower in zip(pixels_HWC[::2].tolist(), pixels_HWC[1::2].tolist(), strict=True):
        cells = [
            f"\x1b[38;2;{a[0]};{a[1]};{a[2]};48;2;{b[0]};{b[1]};{b[2]}m\u2580"
            for a, b in zip(upper, lower, strict=True)
        ]
        lines.append("".join(cells) + "\x1b[0m\n")
    return "".join(lines)

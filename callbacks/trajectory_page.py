"""Trajectories as one HTML page: text is escaped, images are in it, and nothing is loaded or run."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from html import escape
from typing import Protocol

from PIL import Image

from cv_lightning.types import RewardBreakdown, Trajectory, Turn

#: Longest side of an image on the page, in pixels; the PNG files keep all of them.
_LONGEST_SIDE = 448

#: Characters of a turn or an observation on the page; the JSON lines keep all of them.
_LONGEST_TEXT = 6000

# The policy forbids scripts, forms and every request, should anything ever slip past the escaping.
_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark; --paper: #fcfcfb; --ink: #22211f; --quiet: #6b6a66; --line: #d9d8d3; --fill: #f1f0ec;
  --good: #0f7a50; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --paper: #191917; --ink: #eceae4; --quiet: #a5a39b; --line: #3d3c38;
  --fill: #24231f; --good: #56c596; --bad: #f2867e; } }
body { background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; max-width: 960px;
  margin: 2rem auto 4rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; text-transform: capitalize; }
article { border-top: 1px solid var(--line); padding: 1rem 0; } p { margin: .25rem 0; }
pre { background: var(--fill); padding: .6rem .8rem; border-radius: 6px; white-space: pre-wrap; overflow-wrap: anywhere;
  font-size: 13px; margin: .5rem 0; unicode-bidi: isolate; }
figure { display: inline-block; margin: .25rem .75rem .25rem 0; vertical-align: top; }
figcaption, .quiet { color: var(--quiet); font-size: 13px; }
img { max-width: 100%; min-width: 112px; image-rendering: pixelated; border: 1px solid var(--line); display: block; }
.good { color: var(--good); } .bad { color: var(--bad); } bdi { overflow-wrap: anywhere; }
</style>"""


class Shown(Protocol):
    """What the page needs of a trajectory."""

    @property
    def kind(self) -> str:
        """Under which heading it stands."""

    @property
    def trajectory(self) -> Trajectory:
        """What happened."""

    @property
    def breakdown(self) -> RewardBreakdown:
        """What it was paid."""


def page(shown: Iterable[Shown], title: str) -> str:
    """The page of some trajectories, in order, under a heading for each kind."""
    parts, kind = [], None
    for one in shown:
        if one.kind != kind:
            kind = one.kind
            parts.append(f"<h2>{escape(kind)}</h2>")
        parts.append(_article(one.trajectory, one.breakdown))
    head = f"{_HEAD}<title>{escape(title)}</title></head><body><h1>{escape(title)}</h1>"
    return "\n".join([head, *parts, "</body></html>\n"])


def _article(trajectory: Trajectory, breakdown: RewardBreakdown) -> str:
    sample = trajectory.sample
    verdict, style = {True: ("right", "good"), False: ("wrong", "bad"), None: ("not judged", "quiet")}[
        breakdown.is_right
    ]
    terms = ", ".join(f"{name} {value:+.3g}" for name, value in breakdown.terms.items() if value)
    stop = trajectory.stop_reason.value if trajectory.stop_reason else "unknown"
    done = " then ".join(sample.transforms) or "nothing"
    return "".join(
        (
            "<article>",
            f"<p><b>{_inline(sample.question)}</b></p>",
            f'<p class="{style}">{verdict}: {_inline(trajectory.answer)}, truth {_inline(sample.answer)}</p>',
            f'<p class="quiet">reward {breakdown.total:.3g} ({escape(terms) or "no term"}) &middot; done to the image: '
            f"{escape(done)} &middot; ended: {escape(stop)} &middot; {_inline(sample.id)}</p>",
            _images(trajectory, -1),
            *(_turn(trajectory, turn, index) for index, turn in enumerate(trajectory.turns)),
            "</article>",
        )
    )


def _turn(trajectory: Trajectory, turn: Turn, index: int) -> str:
    observation = turn.observation
    seen = ""
    if observation is not None:
        style = "good" if observation.status == "ok" else "bad"
        tools = ", ".join(observation.tools) or "no verified effect"
        seen = f'<p class="{style}">{escape(observation.status)}: {escape(tools)}</p>'
        if observation.text:
            seen += f"<pre>{_text(observation.text)}</pre>"
    return f'<p class="quiet">turn {index + 1}</p><pre>{_text(turn.text)}</pre>{seen}{_images(trajectory, index)}'


def _images(trajectory: Trajectory, turn: int) -> str:
    figures = [
        f'<figure><img alt="image {index}" src="{_data_uri(viewed.image)}"><figcaption>image {index}, '
        f"{viewed.image.width} x {viewed.image.height}</figcaption></figure>"
        for index, viewed in enumerate(trajectory.images)
        if viewed.turn == turn
    ]
    return "".join(figures)


def _data_uri(image: Image.Image) -> str:
    small = image.convert("RGB")
    small.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=90, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _inline(text: str | None) -> str:
    # Isolated, so that a direction mark in it cannot turn the words around it.
    return '<span class="quiet">none</span>' if text is None else f"<bdi>{_text(text)}</bdi>"


def _text(text: str) -> str:
    """Escaped text, cut where it is very long; control characters are shown as such."""
    cut = (
        text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}\n[{len(text) - _LONGEST_TEXT} more characters]"
    )
    visible = "".join(c if c >= " " or c in "\n\t" else chr(0x2400 + ord(c)) for c in cut)
    return escape(visible)

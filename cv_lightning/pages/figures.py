"""Figures for pages: inline SVG whose colors adapt to the page, light or dark."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from cv_lightning.pages.shell import N_COLORS

#: (step, value), in the order of the steps.
Curve = Sequence[tuple[float, float]]

#: Colors are variables of the page. Matplotlib needs numbers, so each gets a unique one, replaced at the end.
_INK, _LINE = "#010203", "#010204"
_STAGE_COLORS = {f"#0a0b{number:02d}": f"var(--stage-{number})" for number in range(N_COLORS)}
_VARIABLES = {_INK: "var(--ink)", _LINE: "var(--line)", **_STAGE_COLORS}

_SETTINGS: Any = {
    "svg.fonttype": "none",  # text stays text: the page's fonts, searchable
    "svg.hashsalt": "report",  # the same data gives the same page
    "text.parse_math": False,  # "$" in a name is not math
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _LINE,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "font.size": 9.0,
}

#: Number of points over which a curve is averaged, as a share of its length.
_SMOOTHED_SHARE = 0.08

#: With more groups of bars than this, names are slanted so that they do not overlap.
_CROWDED = 12
#: Number of letters that fit below the bars.
_LETTERS = 130


def bars(
    values: Mapping[str, Mapping[str, float]],
    colors: Mapping[str, int],
    intervals: Mapping[str, Mapping[str, tuple[float, float]]] | None = None,
    y_label: str = "accuracy, %",
) -> Markup:
    """Grouped bars of shares, in percent.

    Args:
        values: Stage -> {group: share in [0, 1]}; a group that a stage lacks has no bar.
        colors: Stage -> number of its color on the page.
        intervals: Stage -> {group: (low, high)}, drawn as a line on the bar.
        y_label: Label of the vertical axis.
    """
    groups = list(dict.fromkeys(group for shares in values.values() for group in shares))
    with matplotlib.rc_context(_SETTINGS):
        figure, axes = _canvas(9.6, 3.1)
        width = 0.82 / max(1, len(values))
        for index, (stage, shares) in enumerate(values.items()):
            for place, group in enumerate(groups):
                share = shares.get(group, math.nan)
                if not math.isfinite(share):
                    continue
                left = place - 0.41 + width * (index + 0.5)
                axes.bar(left, 100 * share, width * 0.9, color=_color(colors[stage]))
                low, high = (intervals or {}).get(stage, {}).get(group, (share, share))
                if high > low:
                    axes.plot([left, left], [100 * low, 100 * high], color=_INK, linewidth=1)
                above = (left, 100 * max(share, high))
                axes.annotate(f"{100 * share:.0f}", above, (0, 2), textcoords="offset points", ha="center", size=7.5)
        is_crowded = len(groups) > _CROWDED or len(groups) * max(map(len, groups), default=0) > _LETTERS
        axes.set_xticks(
            range(len(groups)), groups, rotation=60 if is_crowded else 0, ha="right" if is_crowded else "center"
        )
        axes.tick_params(axis="x", length=0)
        axes.set_ylim(0, 109)
        axes.set_yticks(range(0, 101, 25))
        axes.set_ylabel(y_label)
        return _svg(figure)


def curves(
    series: Mapping[str, Sequence[Curve]],
    colors: Mapping[str, int],
    *,
    is_log: bool = False,
    x_label: str = "step",
    is_percent: bool = False,
) -> Markup:
    """Plot one metric over the steps, with one line per stage.

    For one seed: its points in a faint color, with their running mean on top. For several seeds: the mean and the range
    of their running means, over the seeds that have a step.

    Args:
        series: Stage -> one curve per seed.
        colors: Stage -> number of its color on the page.
        is_log: Use a logarithmic value axis, unless a value is not positive.
        x_label: Label of the horizontal axis.
        is_percent: Let the vertical axis go from 0 to 100.
    """
    with matplotlib.rc_context(_SETTINGS):
        figure, axes = _canvas(4.6, 2.3)
        values = [value for of_seeds in series.values() for curve in of_seeds for _, value in curve]
        if is_log and values and min(values) > 0:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(values) < 1000 * min(values) else (1,)))
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(_plain))
        for stage, of_seeds in series.items():
            _draw(axes, [curve for curve in of_seeds if curve], _color(colors[stage]))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel(x_label)
        if is_percent:
            axes.set_ylim(0, 105)
            axes.set_yticks(range(0, 101, 25))
        return _svg(figure)


def _plain(value: float, _: int | None) -> str:
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")


def _draw(axes: Axes, of_seeds: Sequence[Curve], color: str) -> None:
    at_step: dict[float, list[float]] = {}
    for curve in of_seeds:
        for (step, _), value in zip(curve, _smoothed([value for _, value in curve]), strict=True):
            at_step.setdefault(step, []).append(value)
    steps = sorted(at_step)
    if len(of_seeds) == 1:
        axes.plot(*zip(*of_seeds[0], strict=True), color=color, linewidth=1, alpha=0.3)
    elif of_seeds:
        low, high = ([end(at_step[step]) for step in steps] for end in (min, max))
        axes.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
    means = [sum(at_step[step]) / len(at_step[step]) for step in steps]
    axes.plot(steps, means, color=color, linewidth=2, marker="o" if len(steps) == 1 else "")


def _smoothed(values: Sequence[float]) -> list[float]:
    reach = int(len(values) * _SMOOTHED_SHARE / 2)
    windows = (values[max(0, at - reach) : at + reach + 1] for at in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="y", color=_LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    return figure, axes


def _color(number: int) -> str:
    return list(_STAGE_COLORS)[number % len(_STAGE_COLORS)]


def _svg(figure: Figure) -> Markup:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # Several figures share a page, so ids of groups would repeat; nothing refers to them.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'role="img"', svg, count=1)
    for number, variable in _VARIABLES.items():
        svg = svg.replace(number, variable)
    return Markup(svg)  # noqa: S704 - matplotlib escapes the names in it

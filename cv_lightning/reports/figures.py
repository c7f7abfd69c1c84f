"""The figures of the report page: inline SVG whose colours follow the page, light or dark."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

#: (step, value) in the order of the steps.
Curve = Sequence[tuple[float, float]]

#: Colours are variables of the page. Matplotlib wants numbers, so each is drawn as a number of its own, then put back.
_INK, _GRID = "#010203", "#010204"
_STAGE_COLORS = {f"#0a0b{number:02d}": f"var(--stage-{number})" for number in range(8)}
_VARIABLES = {_INK: "var(--ink)", _GRID: "var(--grid)", **_STAGE_COLORS}

_SETTINGS: Any = {
    "svg.fonttype": "none",  # text stays text: the page's fonts, searchable
    "svg.hashsalt": "report",  # the same data gives the same page
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _GRID,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "font.size": 9.0,
}

#: Points over which a curve is averaged, as a share of its length.
_SMOOTHED_SHARE = 0.08


def bars(
    values: Mapping[str, Mapping[str, float]],
    colors: Mapping[str, int],
    intervals: Mapping[str, Mapping[str, tuple[float, float]]] | None = None,
    y_label: str = "accuracy, %",
) -> str:
    """Grouped bars of shares, in percent.

    Args:
        values: Stage -> {group: share in [0, 1]}; a group that a stage lacks has no bar.
        colors: Stage -> number of its colour on the page.
        intervals: Stage -> {group: (low, high)}, drawn as a line on the bar.
        y_label: What stands at the vertical axis.
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
                axes.annotate(
                    f"{100 * share:.0f}", (left, 100 * high), (0, 2), textcoords="offset points", ha="center", size=7.5
                )
        # Long names of many conditions would run into each other.
        is_crowded = len(groups) > 12
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
) -> str:
    """One metric over the steps, a line per stage.

    One seed: the points faintly, their running mean on top. Several: the mean of the running means of the seeds that
    have a step, and the range between the smallest and the largest of them.

    Args:
        series: Stage -> one curve per seed.
        colors: Stage -> number of its colour on the page.
        is_log: Logarithmic values; left linear where a value is not positive.
        x_label: What stands at the horizontal axis.
        is_percent: The vertical axis is that of all percentages, 0 to 100.
    """
    with matplotlib.rc_context(_SETTINGS):
        figure, axes = _canvas(4.6, 2.3)
        values = [value for of_seeds in series.values() for curve in of_seeds for _, value in curve]
        if is_log and values and min(values) > 0:
            axes.set_yscale("log")
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


def _draw(axes: Axes, curves_of_seeds: Sequence[Curve], color: str) -> None:
    if len(curves_of_seeds) == 1:
        steps, values = zip(*curves_of_seeds[0], strict=True)
        axes.plot(steps, values, color=color, linewidth=1, alpha=0.3)
        axes.plot(steps, _smoothed(values), color=color, linewidth=2, marker="o" if len(steps) == 1 else "")
    elif curves_of_seeds:
        at_step: dict[float, list[float]] = {}
        for curve in curves_of_seeds:
            for (step, _), value in zip(curve, _smoothed([value for _, value in curve]), strict=True):
                at_step.setdefault(step, []).append(value)
        steps = tuple(sorted(at_step))
        axes.fill_between(
            steps,
            [min(at_step[s]) for s in steps],
            [max(at_step[s]) for s in steps],
            color=color,
            alpha=0.2,
            linewidth=0,
        )
        axes.plot(steps, [sum(at_step[step]) / len(at_step[step]) for step in steps], color=color, linewidth=2)


def _smoothed(values: Sequence[float]) -> list[float]:
    reach = int(len(values) * _SMOOTHED_SHARE / 2)
    windows = (values[max(0, at - reach) : at + reach + 1] for at in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="y", color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    return figure, axes


def _color(number: int) -> str:
    return list(_STAGE_COLORS)[number % len(_STAGE_COLORS)]


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # Several figures share a page: names of groups would repeat, and nothing refers to them.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'role="img"', svg, count=1)
    for number, variable in _VARIABLES.items():
        svg = svg.replace(number, variable)
    return svg

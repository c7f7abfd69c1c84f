"""A comparison as one self-contained page: the report's style and figures, no script, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from cv_lightning.compare.comparison import MEAN, Comparison
from cv_lightning.compare.run import Points
from cv_lightning.compare.summary import Metric, Value, on_grid
from cv_lightning.compare.terminal import SHARES, metric_text, number, paired_cells, value_text
from cv_lightning.console.output_files import write_whole
from cv_lightning.errors import DataError
from cv_lightning.reports.figures import bars, curves
from cv_lightning.reports.run_report import page

#: Columns of a paired table in another order than in the terminal: what matters stands where a phone shows it.
_PAIRED_ORDER = (0, 4, 7, 8, 10, 2, 3, 5, 6, 1, 9)


def write_page(comparison: Comparison, path: Path) -> None:
    """Write the page.

    Raises:
        DataError: It cannot be written.
    """
    names = [group.name for group in comparison.groups]
    colors = {name: (place + 1) % 8 for place, name in enumerate(names)}
    title = " against ".join(names[:3]) + (" and more" if len(names) > 3 else "")
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="legend">{"".join(f"<span>{_key(colors[name])}{escape(name)}</span>" for name in names)}</p>',
        *(f'<p class="missing">{escape(note)}</p>' for note in comparison.notes),
        "<h2>Runs</h2>",
        _runs(comparison, colors),
        *_differing(comparison, names),
        *_paired(comparison),
        *_robustness(comparison, names, colors),
        *_figures(comparison, colors),
        *_rewards(comparison, names),
        *_tools(comparison, names, colors),
        *_metrics(comparison, names),
    ]
    try:
        write_whole(path, page(title, parts))
    except OSError as error:
        raise DataError(f"{path}: the page cannot be written ({error}). Name another place with --html.") from error


def _runs(comparison: Comparison, colors: Mapping[str, int]) -> str:
    rows = []
    for group in comparison.groups:
        for run in group.runs:
            steps = max((points[-1][0] for points in run.curves.values()), default=0.0)
            rows.append(
                [
                    _key(colors[group.name]) + escape(group.name),
                    "-" if run.seed is None else escape(str(run.seed)),
                    f"{steps:,.0f}",
                    f"{run.minutes[-1][1]:.1f}" if run.minutes else "-",
                    f"{len(run.answers):,}" if run.answers else "-",
                    escape(str(run.facts.get("code.commit", "-"))),
                    escape(run.source + (f" · {run.evaluated_by}" if run.evaluated_by else "")),
                ]
            )
    return _rows(["", "seed", "steps", "minutes", "answers", "commit", "where"], rows)


def _differing(comparison: Comparison, names: Sequence[str]) -> Iterator[str]:
    yield "<h2>What differs</h2>"
    if comparison.differing:
        yield _rows(
            ["", *map(escape, names)],
            [[escape(key), *(escape(cell or "-") for cell in cells)] for key, cells in comparison.differing.items()],
        )
    else:
        yield '<p class="missing">Nothing but seeds and places.</p>'


def _paired(comparison: Comparison) -> Iterator[str]:
    tables = [table for table in comparison.paired if table.rows]
    if not tables:
        return
    yield "<h2>On the same questions</h2>"
    yield (
        "<p>Right answers in percent; differences with 95 % bootstrap intervals, seeds and questions resampled. "
        "p: McNemar's exact test by condition, also adjusted for their number (Holm); over all conditions the signs of "
        "whole questions are flipped at random. It asks whether these policies are equally good on such questions; "
        "whether training repeats it, the seeds say.</p>"
    )
    for table in tables:
        heads = ["", "n", table.first, table.second, "difference", f"only {table.first}", f"only {table.second}"]
        heads += ["p", "p, Holm", "test", "seeds ahead"]
        cells = [[escape(row[place]) for place in _PAIRED_ORDER] for row in [heads, *paired_cells(table, " ")]]
        yield f"<h3>{escape(table.second)} against {escape(table.first)}: {table.n_shared:,} pairs of answers</h3>"
        yield _rows(cells[0], cells[1:])


def _robustness(comparison: Comparison, names: Sequence[str], colors: Mapping[str, int]) -> Iterator[str]:
    accuracy = comparison.conditions.get("accuracy")
    if accuracy:
        shown = {label: cells for label, cells in accuracy.items() if label != MEAN} or accuracy
        values: dict[str, dict[str, float]] = {name: {} for name in names}
        intervals: dict[str, dict[str, tuple[float, float]]] = {name: {} for name in names}
        for label, cells in shown.items():
            for name, cell in zip(names, cells, strict=True):
                if cell is not None:
                    values[name][label] = cell.mean
                    intervals[name][label] = cell.interval or (cell.mean, cell.mean)
        yield "<h2>Robustness</h2><p>Accuracy on held-out questions by what was done to the image.</p>"
        yield f'<div class="scroll wide">{bars(values, colors, intervals)}</div>'
        yield _condition_table("accuracy", accuracy, names)
    others = {kind: rows for kind, rows in comparison.conditions.items() if kind != "accuracy"}
    means = {kind: rows[MEAN] for kind, rows in others.items() if MEAN in rows}
    if means:
        body = [
            [escape(_titled(kind)), *(escape(value_text(value, kind)) for value in cells)]
            for kind, cells in means.items()
        ]
        yield f"<h3>Mean over the orientations</h3>{_rows(['', *map(escape, names)], body)}"
    if others:
        tables = "".join(_condition_table(kind, rows, names) for kind, rows in others.items())
        yield f"<details><summary>The same by condition</summary>{tables}</details>"


def _condition_table(kind: str, rows: Mapping[str, Sequence[Value | None]], names: Sequence[str]) -> str:
    body = [[escape(label), *(escape(value_text(value, kind)) for value in cells)] for label, cells in rows.items()]
    return f"<h3>{escape(_titled(kind))}</h3>{_rows(['', *map(escape, names)], body)}"


def _titled(kind: str) -> str:
    return f"{kind}, %" if kind in SHARES else kind


def _figures(comparison: Comparison, colors: Mapping[str, int]) -> Iterator[str]:
    terms = [f"reward/{term}" for term in comparison.under("reward/")]
    metrics = [name for name in dict.fromkeys([*comparison.shown, *terms]) if _moves(comparison, name)]
    for heading, over_minutes, label in (
        ("Curves over steps", False, "step"),
        ("Curves over wall time", True, "minutes of training"),
    ):
        panels = []
        for metric in metrics:
            series = comparison.series(metric, is_over_minutes=over_minutes)
            if series:
                placed = {name: _shared_places(of_group) for name, of_group in series.items()}
                figure = curves(placed, colors, x_label=label)
                panels.append(f"<div><h3>{escape(metric)}</h3>{figure}</div>")
        if panels:
            yield f"<h2>{heading}</h2><p>Running means; with several seeds their mean and range.</p>"
            yield f'<div class="grid">{"".join(panels)}</div>'


def _moves(comparison: Comparison, metric: str) -> bool:
    values = {value for curves in comparison.series(metric).values() for points in curves for _, value in points}
    return len(values) > 1


def _shared_places(of_group: Sequence[Points]) -> list[Points]:
    """As they are where seeds share their places, as steps do; else drawn anew at places that they share."""
    places = {tuple(place for place, _ in points) for points in of_group}
    return list(of_group) if len(places) == 1 else on_grid(of_group)


def _rewards(comparison: Comparison, names: Sequence[str]) -> Iterator[str]:
    rewards, shares = comparison.under("reward/"), comparison.under("components/share/")
    if rewards:
        yield "<h2>Reward terms</h2><p>Weighted means at the end of training.</p>"
        yield _rows(
            ["", *map(escape, names)],
            [[escape(term), *(metric_text(cell, " · ") for cell in cells)] for term, cells in rewards.items()],
        )
    if shares:
        yield "<h3>Share of the variance within groups, %</h3>"
        yield _rows(
            ["", *map(escape, names)],
            [
                [escape(term), *("-" if cell is None else f"{100 * cell.final.mean:.1f}" for cell in cells)]
                for term, cells in shares.items()
            ],
        )


def _tools(comparison: Comparison, names: Sequence[str], colors: Mapping[str, int]) -> Iterator[str]:
    families = comparison.under("tools/family/")
    histograms = [
        ("Tools at the end of training", "rollouts, %", _ends(comparison, "tools/used/", names)),
        ("Tools in the answers to the test", "questions, %", _shares(comparison.answer_tools, names)),
        ("Families of tools at the end of training", "tools used, %", _ends(comparison, "tools/family/", names)),
    ]
    for heading, label, values in histograms:
        if any(values.values()) and not (label == "tools used, %" and len(families) < 2):
            yield f"<h2>{heading}</h2>"
            yield f'<div class="scroll wide">{bars(values, colors, y_label=label)}</div>'


def _ends(comparison: Comparison, prefix: str, names: Sequence[str]) -> dict[str, dict[str, float]]:
    ends: dict[str, dict[str, float]] = {name: {} for name in names}
    for tool, cells in comparison.under(prefix).items():
        for name, cell in zip(names, cells, strict=True):
            if cell is not None:
                ends[name][tool] = cell.final.mean
    return ends


def _shares(table: Mapping[str, Sequence[float | None]], names: Sequence[str]) -> dict[str, dict[str, float]]:
    shares: dict[str, dict[str, float]] = {name: {} for name in names}
    for tool, cells in table.items():
        for name, cell in zip(names, cells, strict=True):
            if cell is not None:
                shares[name][tool] = cell
    return shares


def _metrics(comparison: Comparison, names: Sequence[str]) -> Iterator[str]:
    yield "<h2>All metrics</h2>"
    yield "<p>At the end, with 95 % bootstrap intervals over the seeds, and the best with its step.</p>"
    body = [[escape(name), *map(_metric, cells)] for name, cells in comparison.metrics.items()]
    table = _rows(["", *map(escape, names)], body)
    yield f"<details><summary>{len(body)} metrics</summary>{table}</details>"


def _metric(metric: Metric | None) -> str:
    text = escape(metric_text(metric, " · "))
    if metric is None or len(metric.final.of_runs) < 2:
        return text
    return f'{text}<br><span class="quiet">{", ".join(map(number, metric.final.of_runs))}</span>'


def _key(color: int) -> str:
    return f'<i class="key" style="background: var(--stage-{color})"></i>'


def _rows(head: Iterable[str], body: Iterable[Sequence[str]]) -> str:
    lines = [f"<tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr>"]
    lines += [f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for cells in body]
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'

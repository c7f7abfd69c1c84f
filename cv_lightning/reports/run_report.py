"""The report page of a run: `report.json` and the stages' `metrics.csv` as one self-contained HTML file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from cv_lightning.errors import DataError
from cv_lightning.reports.figures import Curve, bars, curves
from cv_lightning.reports.metrics_log import read_curves
from cv_lightning.rewards import TERMS

#: Stages of the tiny recipe keep their colours, whichever of them were run.
_KNOWN_STAGES = ("base", "sft", "rl", "rl_outcome_only")

#: Panels of the RL part: metric, title. A reward term that never left 0 is left out.
_RL_PANELS = (
    ("rollout/accuracy", "Right answers, share of rollouts"),
    ("rollout/tool_rate", "Rollouts with a tool call, share"),
    ("reward/total", "Reward, total"),
    *((f"reward/{term}", f"Reward term: {term}") for term in TERMS),
    ("rl/kl", "KL to the reference policy"),
    ("rl/zero_variance_groups", "Groups without spread of rewards, share"),
)
_LOSS = "train/loss"

#: Stage -> one table of curves per seed: metric -> points.
_Curves = Mapping[str, Sequence[Mapping[str, Curve]]]

_STYLE = """
:root { color-scheme: light dark; --paper: #fcfcfb; --ink: #22211f; --quiet: #6b6a66; --grid: #d9d8d3;
  --stage-0: #8f8d86; --stage-1: #2a78d6; --stage-2: #0f8f5f; --stage-3: #d9731a; --stage-4: #7a5fd0;
  --stage-5: #c9437e; --stage-6: #9a7b00; --stage-7: #0f8ea0; }
@media (prefers-color-scheme: dark) { :root { --paper: #191917; --ink: #eceae4; --quiet: #a5a39b; --grid: #3d3c38;
  --stage-0: #9c9a92; --stage-1: #5b9ff0; --stage-2: #3fbf8b; --stage-3: #f0954a; --stage-4: #a48cf0;
  --stage-5: #ec78a8; --stage-6: #cfae2e; --stage-7: #4bc1d2; } }
body { background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; max-width: 1080px;
  margin: 2rem auto 4rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: .9rem; font-weight: 600; margin: 0; }
p, .quiet { color: var(--quiet); margin: .25rem 0; } svg { width: 100%; height: auto; display: block; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); gap: 1.25rem 1.5rem; }
.scroll { overflow-x: auto; } .wide svg { min-width: 600px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--grid); white-space: nowrap; }
th { font-weight: 600; } th:first-child, td:first-child { text-align: left; padding-left: 0; }
.key { display: inline-block; width: .75rem; height: .75rem; border-radius: 2px; margin-right: .4rem; }
.legend span { margin-right: 1.25rem; }
"""


def write_report(run_folder: Path) -> Path:
    """Write `report.html` beside `report.json`; returns its path.

    Curves come from `<run folder>/<stage>/**/metrics.csv`, or from `seed_*/<stage>` where several seeds were run. A
    stage or a metric that is not there is named on the page.

    Raises:
        DataError: There is no readable `report.json`.
    """
    source = run_folder / "report.json"
    try:
        report: Any = json.loads(source.read_text(encoding="utf-8"))
        stages = report["stages"]
        names = list(stages)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{source}: no report to draw ({error!r}). `cv_lightning reproduce` writes it.") from error
    curves_of = {name: _read_seeds(run_folder, name) for name in names}
    colors = _colors(names)
    parts = [
        f"<h1>{escape(run_folder.resolve().name)}</h1>",
        f'<p>{_facts(report)}</p><p class="legend">{_legend(names, colors)}</p>',
        "<h2>Accuracy by orientation</h2>",
        "<p>Held-out images, by what was done to them before the policy saw them.</p>",
        _accuracy(stages, colors),
        _tables(stages, colors),
        "<h2>Reinforcement learning</h2>",
        _reinforcement(curves_of, colors),
        "<h2>Training loss</h2>",
        _losses(curves_of, colors),
        "<h2>Run</h2>",
        _versions(report),
    ]
    path = run_folder / "report.html"
    path.write_text(page(run_folder.resolve().name, parts), encoding="utf-8")
    return path


def page(title: str, parts: Sequence[str]) -> str:
    """A self-contained page, light or dark as the reader's machine is, from parts that are HTML already."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


# ---- what was logged -------------------------------------------------------------------------------------------------


def _read_seeds(run_folder: Path, stage: str) -> list[dict[str, list[tuple[float, float]]]]:
    folders = [run_folder / stage] if (run_folder / stage).is_dir() else sorted(run_folder.glob(f"seed_*/{stage}"))
    seeds = []
    for folder in folders:
        merged: dict[str, list[tuple[float, float]]] = {}
        for path in sorted(folder.rglob("metrics.csv"), key=lambda path: path.stat().st_mtime):
            for name, curve in read_curves(path).items():
                merged[name] = sorted((dict(merged.get(name, ())) | dict(curve)).items())
        if merged:
            seeds.append(merged)
    return seeds


# ---- figures ---------------------------------------------------------------------------------------------------------


def _colors(names: Iterable[str]) -> dict[str, int]:
    others = [name for name in names if name not in _KNOWN_STAGES]
    return {name: number for number, name in enumerate((*_KNOWN_STAGES, *others))}


def _accuracy(stages: Mapping[str, Any], colors: Mapping[str, int]) -> str:
    values = {name: entry["accuracy"] for name, entry in stages.items() if entry.get("accuracy")}
    return (
        f'<div class="scroll wide">{bars(values, colors)}</div>'
        if values
        else '<p class="missing">No stage has an accuracy.</p>'
    )


def _reinforcement(curves_of: _Curves, colors: Mapping[str, int]) -> str:
    learned = {name: seeds for name, seeds in curves_of.items() if any("reward/total" in seed for seed in seeds)}
    if not learned:
        return '<p class="missing">No stage logged reward/total.</p>'
    panels, missing = [], []
    for metric, title in _RL_PANELS:
        series = _series(learned, metric)
        if not series:
            missing.append(metric)
        elif metric.startswith("reward/"):
            # A term without weight is 0 throughout; its line would only hide the scale of the others.
            series = {name: of_seeds for name, of_seeds in series.items() if _ever_moved(of_seeds)}
        if series:
            panels.append(f"<div><h3>{escape(title)}</h3>{curves(series, colors)}</div>")
    return f'<div class="grid">{"".join(panels)}</div>' + _not_logged(missing)


def _losses(curves_of: _Curves, colors: Mapping[str, int]) -> str:
    panels, missing = [], []
    for name, seeds in curves_of.items():
        series = _series({name: seeds}, _LOSS)
        if series:
            panels.append(f"<div><h3>{escape(name)}</h3>{curves(series, colors, is_log=True)}</div>")
        elif not seeds:
            missing.append(f"{name} (no metrics.csv)")
    grid = f'<div class="grid">{"".join(panels)}</div>' if panels else '<p class="missing">No stage logged a loss.</p>'
    return grid + _not_logged(missing)


def _series(curves_of: _Curves, metric: str) -> dict[str, list[Curve]]:
    found = {name: [seed[metric] for seed in seeds if seed.get(metric)] for name, seeds in curves_of.items()}
    return {name: of_seeds for name, of_seeds in found.items() if of_seeds}


def _ever_moved(of_seeds: Sequence[Curve]) -> bool:
    return any(value for curve in of_seeds for _, value in curve)


def _not_logged(missing: Sequence[str]) -> str:
    return f'<p class="missing">Not logged: {escape(", ".join(missing))}.</p>' if missing else ""


# ---- words and numbers -----------------------------------------------------------------------------------------------


def _legend(names: Sequence[str], colors: Mapping[str, int]) -> str:
    return "".join(f"<span>{_key(colors[name])}{escape(name)}</span>" for name in names)


def _key(color: int) -> str:
    return f'<i class="key" style="background: var(--stage-{color % 8})"></i>'


def _facts(report: Mapping[str, Any]) -> str:
    seeds = report.get("seeds") or []
    seconds = sum(entry.get("seconds") or 0 for entry in report["stages"].values())
    facts = [f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}" if seeds else ""]
    facts.append(f"{seconds / 60:.1f} minutes" + (" per seed" if len(seeds) > 1 else ""))
    if report.get("peak_memory_mb"):
        facts.append(f"peak memory {report['peak_memory_mb'] / 1024:.1f} GiB")
    return escape(" · ".join(fact for fact in facts if fact))


def _tables(stages: Mapping[str, Any], colors: Mapping[str, int]) -> str:
    """Accuracy by orientation, and below it the use of tools; columns as in `reproduce.tables`."""
    orientations = list(dict.fromkeys(name for entry in stages.values() for name in entry.get("accuracy") or {}))
    accuracy, tools = {}, {}
    for name, entry in stages.items():
        shares, least = entry.get("accuracy") or {}, entry.get("min") or {}
        least_shares = least.get("accuracy") or {}
        accuracy[name] = [_percent(shares.get(key), least_shares.get(key)) for key in orientations]
        accuracy[name].append(_percent(entry.get("mean"), least.get("mean")))
        tools[name] = [
            _percent((entry.get("tool_rate") or {}).get("upright")),
            _percent(_mean_turned(entry.get("tool_rate") or {})),
            _percent(_mean_turned(entry.get("restored_rate") or {})),
            f"{entry['mean_turns']:.2f}" if "mean_turns" in entry else "-",
            f"{entry['seconds'] / 60:.1f}" if "seconds" in entry else "-",
        ]
    has_least = any("min" in entry for entry in stages.values())
    several = "<p>Means over the seeds, the smallest in parentheses.</p>" if has_least else ""
    return (
        several
        + _table("accuracy, %", [*orientations, "mean"], accuracy, colors)
        + "<h2>Use of tools</h2><p>Shares of the held-out images on which a tool was called, and of the turned ones "
        "whose last view stands upright to the pixel.</p>"
        + _table("", ["called, upright, %", "called, turned, %", "restored, %", "turns", "minutes"], tools, colors)
    )


def _table(corner: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]], colors: Mapping[str, int]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in (corner, *columns))
    body = "".join(
        f"<tr><td>{_key(colors[name])}{escape(name)}</td>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for name, cells in rows.items()
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _percent(share: float | None, least: float | None = None) -> str:
    if share is None:
        return "-"
    return f"{100 * share:.1f}" + (f" ({100 * least:.1f})" if least is not None else "")


def _mean_turned(shares: Mapping[str, float]) -> float | None:
    turned = [share for name, share in shares.items() if name != "upright"]
    return sum(turned) / len(turned) if turned else None


def _versions(report: Mapping[str, Any]) -> str:
    versions = report.get("versions") or {}
    rows = "".join(f"<tr><td>{escape(str(k))}</td><td>{escape(str(v))}</td></tr>" for k, v in versions.items())
    return f"<table>{rows}</table>" if rows else '<p class="missing">No versions recorded.</p>'

"""The report page of a run: `report.json` and each stage's `metrics.csv` as one self-contained HTML file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cv_lightning.errors import DataError
from cv_lightning.pages.figures import bars, curves
from cv_lightning.pages.shell import render
from cv_lightning.reports.claim_tables import FINDINGS_HEAD, finding_rows
from cv_lightning.reports.metrics_log import Points, merge, read_curves
from cv_lightning.reports.stage_tables import stage_tables
from cv_lightning.rewards import TERMS

#: Stages of the tiny recipe always have the same colors, even if only some of them were run.
_KNOWN_STAGES = ("base", "sft", "rl", "rl_outcome_only")

#: Panels of the RL part: metric -> title. A reward term that is always 0 is left out.
_RL_PANELS = {
    "rollout/accuracy": "Right answers, share of rollouts",
    "rollout/tool_rate": "Rollouts with a tool call, share",
    "reward/total": "Reward, total",
    **{f"reward/{term}": f"Reward term: {term}" for term in TERMS},
    "rl/kl": "KL to the reference policy",
    "rl/zero_variance_groups": "Groups with equal rewards, share",
}
_LOSS = "train/loss"

#: Stage -> one table of curves per seed: metric -> points.
_Curves = Mapping[str, Sequence[Mapping[str, Points]]]


def write_report(run_folder: Path) -> Path:
    """Write `report.html` beside `report.json`; returns its path.

    Curves come from `<run folder>/<stage>/**/metrics.csv`, or from `seed_*/<stage>` if there are several seeds. The
    page names missing stages and metrics.

    Raises:
        DataError: There is no readable `report.json`.
    """
    source = run_folder / "report.json"
    try:
        report: Any = json.loads(source.read_text(encoding="utf-8"))
        stages = dict(report["stages"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{source}: cannot be read as a report ({error!r}). `reproduce` writes it.") from error
    curves_of = {name: _read_seeds(run_folder, name) for name in stages}
    others = [name for name in stages if name not in _KNOWN_STAGES]
    colors = {name: number for number, name in enumerate((*_KNOWN_STAGES, *others)) if name in stages}
    learned, not_learned = _reinforcement(curves_of, colors)
    accuracy = {name: entry["accuracy"] for name, entry in stages.items() if entry.get("accuracy")}
    claims = [_shown(claim, run_folder) for claim in report.get("claims") or ()]
    page = render(
        "reports/report.html",
        failed=report.get("failed") or {},
        claims=claims,
        summary=[[claim["name"], claim["paper"], claim["verdict"]] for claim in claims],
        head=FINDINGS_HEAD,
        title=run_folder.resolve().name,
        facts=_facts(report),
        colors=colors,
        accuracy_bars=bars(accuracy, colors) if accuracy else None,
        tables=stage_tables(report),
        has_least=any("min" in entry for entry in stages.values()),
        learned=learned,
        not_learned=not_learned,
        losses={
            name: curves(series, colors, is_log=True)
            for name, seeds in curves_of.items()
            if (series := _series({name: seeds}, _LOSS))
        },
        without_log=[f"{name} (no metrics.csv)" for name, seeds in curves_of.items() if not seeds],
        versions=report.get("versions") or {},
    )
    path = run_folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _shown(claim: Mapping[str, Any], run_folder: Path) -> dict[str, Any]:
    """A claim with the rows of its findings, and with links from the page to trajectories of its first arm."""
    folders = [run_folder / claim["arms"][0], *sorted(run_folder.glob(f"seed_*/{claim['arms'][0]}"))]
    found = [(folder, sorted(folder.glob("trajectories/step_*/index.html"))) for folder in folders]
    links = [pages[-1].relative_to(run_folder).as_posix() for _, pages in found if pages]
    links += [path.relative_to(run_folder).as_posix() for folder, _ in found for path in folder.glob("answers_*.jsonl")]
    return {**claim, "rows": finding_rows(claim), "links": links}


def _read_seeds(run_folder: Path, stage: str) -> list[dict[str, Points]]:
    folders = [run_folder / stage] if (run_folder / stage).is_dir() else sorted(run_folder.glob(f"seed_*/{stage}"))
    logs = (sorted(folder.rglob("metrics.csv"), key=lambda path: path.stat().st_mtime) for folder in folders)
    return [seed for files in logs if (seed := merge(map(read_curves, files)))]


def _reinforcement(curves_of: _Curves, colors: Mapping[str, int]) -> tuple[dict[str, Markup], list[str]]:
    """Panels by title, and the metrics that no stage logged."""
    learned = {name: seeds for name, seeds in curves_of.items() if any("reward/total" in seed for seed in seeds)}
    panels, missing = {}, []
    for metric, title in _RL_PANELS.items() if learned else ():
        series = _series(learned, metric)
        if not series:
            missing.append(metric)
        elif metric.startswith("reward/"):
            # A term without weight is always 0; its line would only distort the scale for the others.
            series = {name: of_seeds for name, of_seeds in series.items() if _ever_moved(of_seeds)}
        if series:
            panels[title] = curves(series, colors)
    return panels, missing


def _series(curves_of: _Curves, metric: str) -> dict[str, list[Points]]:
    found = {name: [seed[metric] for seed in seeds if seed.get(metric)] for name, seeds in curves_of.items()}
    return {name: of_seeds for name, of_seeds in found.items() if of_seeds}


def _ever_moved(of_seeds: Sequence[Points]) -> bool:
    return any(value for curve in of_seeds for _, value in curve)


def _facts(report: Mapping[str, Any]) -> list[str]:
    seeds = report.get("seeds") or []
    seconds = sum(entry.get("seconds") or 0 for entry in report["stages"].values())
    facts = [f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"] if seeds else []
    facts.append(f"{seconds / 60:.1f} minutes" + (" per seed" if len(seeds) > 1 else ""))
    if report.get("peak_memory_mb"):
        facts.append(f"peak memory {report['peak_memory_mb'] / 1024:.1f} GiB")
    return facts

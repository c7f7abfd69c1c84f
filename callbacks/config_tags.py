"""Tags that distinguish runs in MLflow's list: stage, model, data, seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def config_tags(config: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Tags of a run from its resolved config; a value that the config lacks has no tag.

    Args:
        config: The content of `config_<command>.yaml`.
        folder: Folder of the run's results; its name is the name of the stage.

    Returns:
        `stage`, `seed`, `model`: the source of the policy, or the family it was built as; `data`: the class of the
        source and the files that it reads.
    """
    policy = next(_inside(config.get("model"), "policy"), {})
    source = data_source(config)
    built = policy.get("build")
    family = built.get("family") if isinstance(built, Mapping) else None
    files = [str(source[split]) for split in ("train", "test") if isinstance(source.get(split), str)]
    tags = {
        "stage": folder.name,
        "seed": config.get("seed_everything"),
        "model": policy.get("source") or (f"{family or 'a policy'} from nothing" if built else None),
        "data": " ".join([str(source.get("class_path", "")).rpartition(".")[2], *files]).strip(),
    }
    return {name: str(value)[:500] for name, value in tags.items() if value not in (None, "")}


def data_source(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments and `class_path` of the source of a config's data; empty if it has none."""
    return next(_inside(config.get("data"), "source"), {})


def _inside(config: Any, name: str) -> Iterator[dict[str, Any]]:
    """The arguments and `class_path` of every entry with a given name, outermost first."""
    if isinstance(config, Mapping):
        entry = config.get(name)
        if isinstance(entry, Mapping):
            yield {"class_path": entry.get("class_path", ""), **(entry.get("init_args") or {})}
        for value in config.values():
            yield from _inside(value, name)

"""Records how a run was made: config, code, data, packages, machine and command, beside its results and in MLflow."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger
from lightning.pytorch.trainer.states import TrainerFn

from callbacks.config_tags import config_tags, data_source
from callbacks.data_facts import data_facts
from callbacks.mlflow.inputs import inputs_of
from callbacks.mlflow.logger import BackgroundMLflowLogger
from cv_lightning.console.versions import all_versions

#: The checkout that the code runs from.
_ROOT = Path(__file__).resolve().parents[1]

#: Longest wait for git, in seconds: a checkout can be on a slow network drive.
_GIT_TIMEOUT_S = 10.0

#: Packages whose versions become tags.
_TAGGED = ("torch", "lightning", "transformers")


class ConfigAndCode(Callback):
    """Writes `run_<command>.json` and, if code was changed and not committed, `code_<command>.diff`.

    Both are written to `<default_root_dir>`, beside the `config_<command>.yaml` of the command line, and are sent to
    MLflow with it. There the values of the config become parameters, and the data of each split become an input. Tags
    hold stage, model, data and seed (`config_tags`), commit, command, versions, hardware and the fingerprint of the
    data (`data_facts`).
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write and send; earlier it is not known whether a checkpoint's run is resumed."""
        self._record(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write and send."""
        self._record(trainer)

    def _record(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero or trainer.state.fn is None:
            return
        folder, command = Path(trainer.default_root_dir), trainer.state.fn.value
        facts = run_facts(_ROOT, getattr(trainer, "datamodule", None))
        diff = facts["code"].pop("diff")
        files = {f"run_{command}.json": json.dumps(facts, indent=1) + "\n", f"code_{command}.diff": diff}
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for name, text in files.items():
            (folder / name).unlink(missing_ok=True)
            if text:
                (folder / name).write_text(text, encoding="utf-8", errors="surrogateescape")
                written.append(folder / name)
        config = folder / f"config_{command}.yaml"
        for logger in trainer.loggers:
            _send(logger, written, config, facts, _splits(trainer))


def _splits(trainer: Trainer) -> list[str]:
    """The splits that the command uses."""
    if trainer.state.fn == TrainerFn.FITTING:
        return ["train", "validation"] if trainer.enable_validation else ["train"]
    return ["test"]


def _send(logger: Logger, files: Sequence[Path], config: Path, facts: dict[str, Any], splits: Sequence[str]) -> None:
    """Send to MLflow. Parameters cannot change there: those of a run's first `fit` stay, but files are replaced."""
    if isinstance(logger, BackgroundMLflowLogger):
        for file in files:
            logger.log_artifact(file)
        logger.set_tags(_tags(facts))
        values = {}
        if config.exists():
            logger.log_artifact(config)
            values = yaml.safe_load(without_passwords(config.read_text(encoding="utf-8")))
            logger.set_tags(config_tags(values, config.parent))
            if "train" in splits and not logger.is_resumed:
                logger.log_hyperparams(values)
        logger.log_inputs(inputs_of(facts["data"], data_source(values), splits))
    elif isinstance(logger, MLFlowLogger):  # the command line sends it the config
        for file in files:
            logger.experiment.log_artifact(logger.run_id, str(file))
        for name, value in _tags(facts).items():
            logger.experiment.set_tag(logger.run_id, name, value)


def _tags(facts: dict[str, Any]) -> dict[str, str]:
    code = facts["code"]
    versions = {f"version.{name}": facts["packages"][name] for name in _TAGGED if name in facts["packages"]}
    commit = {} if code["commit"] is None else {"code.commit": code["commit"], "code.changed": str(code["is_changed"])}
    data = {"data.fingerprint": facts["data"]["fingerprint"]} if facts["data"] else {}
    machine = {"machine": facts["machine"]["name"], "hardware": hardware(facts["machine"])}
    return {**commit, **versions, **data, **machine, "command": facts["command"][:5000]}


def hardware(machine: dict[str, Any]) -> str:
    """Description of a machine: its accelerators, else its processor."""
    found = machine["accelerators"]
    if found:
        return ", ".join(f"{found.count(name)} x {name}" for name in dict.fromkeys(found))
    return f"{machine['n_usable_processors']} x {machine['processor']}"


# ---- facts -----------------------------------------------------------------------------------------------------------


def run_facts(root: Path, datamodule: Any = None) -> dict[str, Any]:
    """Command, code, data, packages and machine of this process, as JSON.

    Args:
        root: The checkout; its git facts are None without git.
        datamodule: The data module of the run.
    """
    return {
        "command": without_passwords(shlex.join(sys.orig_argv)),
        "folder": str(Path.cwd()),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "code": code_facts(root),
        "data": data_facts(datamodule),
        "python": platform.python_version(),
        "packages": all_versions(),
        "machine": machine_facts(),
    }


def code_facts(root: Path) -> dict[str, Any]:
    """Commit, branch, whether anything differs from the commit, the difference, and untracked files."""
    commit = _git(root, "rev-parse", "HEAD")
    diff = _git(root, "diff", "HEAD", "--no-ext-diff", "--no-color") or ""
    unknown = (_git(root, "ls-files", "--others", "--exclude-standard") or "").splitlines()
    return {
        "root": str(root),
        "commit": commit.strip() if commit is not None else None,
        "branch": (_git(root, "rev-parse", "--abbrev-ref", "HEAD") or "").strip(),
        "is_changed": bool(diff or unknown),
        "unknown_files": unknown,
        "diff": diff,
    }


def machine_facts() -> dict[str, Any]:
    """Name, processor, memory and accelerators."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "name": platform.node(),
        "system": platform.platform(),
        "processor": _processor(),
        "n_processors": os.cpu_count(),
        "n_usable_processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "torch_threads": torch.get_num_threads(),
        "accelerators": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def without_passwords(text: str) -> str:
    """The text with `***` for the passwords of its URLs."""
    return re.sub(r"(://[^\s/:@]*):[^\s/@]+@", r"\1:***@", text)


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1) if found else platform.processor()


def _git(root: Path, *arguments: str) -> str | None:
    """The output of git; None without git, without a repository or without an answer in time."""
    program = shutil.which("git")
    if program is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603  # a fixed program and our own arguments
            [program, "-C", str(root), *arguments],
            capture_output=True,
            timeout=_GIT_TIMEOUT_S,
            check=False,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},  # never block a commit that is being made
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="surrogateescape") if done.returncode == 0 else None

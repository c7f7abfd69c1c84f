"""Exports the trained policy as a folder that the next stage, `transformers` and `peft` can load."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from cv_lightning.errors import ConfigError, TrainingError


class ExportPolicy(Callback):
    """Calls `pl_module.policy.export(folder)` when `fit` has finished; an interrupted `fit` exports nothing.

    Args:
        folder: Folder of the policy; None writes to `<default_root_dir>/policy`.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = folder

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check before training that the module has a policy to export.

        Raises:
            ConfigError: The module holds no `policy` that can be exported.
        """
        if stage == "fit" and not callable(getattr(getattr(pl_module, "policy", None), "export", None)):
            raise ConfigError(
                f"ExportPolicy: {type(pl_module).__name__} has no attribute `policy` with a method `export(folder)`. "
                "Remove the callback, or use a module of modules/."
            )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export; the next stage reads the folder, so no process continues before it is complete.

        Raises:
            TrainingError: The policy cannot be written.
        """
        policy = getattr(pl_module, "policy")  # noqa: B009  # setup has looked; a LightningModule in general has none
        folder = Path(trainer.default_root_dir) / "policy" if self.folder is None else Path(self.folder)
        fault: str | None = None
        try:
            if trainer.is_global_zero or getattr(
                policy, "is_sharded", False
            ):  # all ranks hold a part of what is sharded
                policy.export(folder)
        except OSError as error:
            fault = error.strerror or str(error)
        if fault := trainer.strategy.broadcast(fault):
            raise TrainingError(
                f"{folder}: cannot export the policy ({fault}). The last checkpoint has the trained weights. Fix the "
                "cause, then run the same command with --ckpt_path, which then only exports."
            )

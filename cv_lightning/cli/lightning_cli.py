"""fit, validate and test: LightningCLI in subclass mode, configs with OmegaConf interpolation.

This module is independent of the project's modules, data sets and callbacks: configs name them by `class_path`.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerFn

from cv_lightning.cli.compose import command_line_options, compose_command_line, config_files
from cv_lightning.cli.config_errors import explain
from cv_lightning.cli.interrupt import CheckpointOnInterrupt
from cv_lightning.cli.lost_process import lost_process
from cv_lightning.console.quiet import is_quiet
from cv_lightning.errors import ConfigError, CVLightningError

#: `ckpt_path` values that Lightning resolves itself.
_CHECKPOINT_WORDS = ("best", "last", "hpc")


class _Refused(Exception):
    """A config that cannot be used; `_located` adds whether a file or the command line holds the fault."""


class SaveConfig(SaveConfigCallback):
    """Writes the resolved config to `<default_root_dir>/config_<command>.yaml`.

    Lightning's own callback asserts a `log_dir`, which an MLflow logger on SQLite does not have.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file once per run, on the first process."""
        if self.already_saved or not trainer.is_global_zero:
            return
        path = Path(trainer.default_root_dir) / f"config_{TrainerFn(stage).value}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.parser.save(self.config, str(path), skip_none=False, overwrite=True, multifile=False)
        self.already_saved = True


class CLI(LightningCLI):
    """LightningCLI with two more keys: `run_folder`, from which configs build their paths, and `memory_check`.

    Args:
        *args: Passed to LightningCLI.
        composed: The config in `args`, for error messages.
        **kwargs: Passed to LightningCLI.
    """

    def __init__(self, *args: Any, composed: Mapping[str, Any], **kwargs: Any) -> None:
        self._composed = composed
        super().__init__(*args, **kwargs)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's subcommands without `predict`: `test` answers the same questions and keeps the answers."""
        return {name: skipped for name, skipped in LightningCLI.subcommands().items() if name != "predict"}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the two keys, and shorten the usage line: the options are listed below it."""
        parser.usage = "%(prog)s --config FILE [--config FILE ...] [--KEY VALUE ...]"
        parser.add_argument(
            "--run_folder", type=str, default="runs", help="Where the run writes; configs refer to it as ${run_folder}."
        )
        parser.add_argument(
            "--memory_check",
            type=Literal["refuse", "off"],
            default="refuse",
            help="Whether fit refuses a config if a step takes more memory than a GPU has; see plan.",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the command line; an error of jsonargparse becomes a `_Refused` with a plain message."""
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "LightningCLI's args parameter")  # `args` is the command line itself
                super().parse_arguments(parser, args)
        except argparse.ArgumentError as error:
            arguments = args if isinstance(args, list) else []
            subcommand = next((word for word in arguments if word in self._subcommand_parsers), None)
            actions = self._subcommand_parsers[subcommand]._actions if subcommand else []
            raise _Refused(explain(str(error), self._composed, [action.dest for action in actions])) from error

    def _parse_ckpt_path(self) -> None:
        """Keep the config unchanged: Lightning would replace its values with those stored in the checkpoint."""

    def before_instantiate_classes(self) -> None:
        """Refuse a missing or unusable checkpoint before building the model, which can take minutes."""
        path = self.config[self.subcommand].get("ckpt_path")
        if path and str(path) not in _CHECKPOINT_WORDS and "://" not in str(path) and not Path(path).exists():
            raise ConfigError(f"ckpt_path: there is no checkpoint {str(path)!r} (working directory {Path.cwd()}).")
        strategy = self.config[self.subcommand].get("trainer", {}).get("strategy")
        if path and Path(path).is_dir() and "ShardedStrategy" not in str(strategy):
            raise ConfigError(
                f"ckpt_path: {path} is the checkpoint of a sharded run. Add --config experiments/sharded.yaml; the "
                "number of devices may differ, and may be 1."
            )

    def instantiate_classes(self) -> None:
        """Build trainer, model and data; an error of a constructor is raised unwrapped.

        jsonargparse wraps it in a ValueError about the types of the union that it tried.
        """
        try:
            super().instantiate_classes()
        except ValueError as error:
            raise _innermost(error) from None

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer; an error of Lightning, such as an unknown strategy, becomes an error of the config."""
        try:
            return super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ImportError, RuntimeError, TypeError, ValueError) as error:
            fault = " ".join(str(_innermost(error)).split())
            if "gpu backend" in fault:
                fault += (
                    " This machine has no GPU that torch can use: add --trainer.accelerator cpu, or check the driver."
                )
            raise _Refused(f"trainer: {fault}") from error


class ConfigReader(CLI):
    """Parses and checks a command line like `CLI`, but builds and runs nothing."""

    def _set_seed(self) -> None:
        """Do nothing: nothing random runs."""

    def instantiate_classes(self) -> None:
        """Build nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""


def _innermost(error: BaseException) -> BaseException:
    """The root cause, or the first `CVLightningError` on the way to it, which already explains its cause."""
    while error.__cause__ is not None and not isinstance(error, CVLightningError):
        error = error.__cause__
    return error


def main(arguments: Sequence[str]) -> int:
    """Run the command line of `fit`, `validate` or `test`."""
    run_command(arguments)
    return 0


def run_command(arguments: Sequence[str], kind: type[CLI] = CLI) -> CLI:
    """Run one subcommand and return the CLI with its trainer, model and data.

    Args:
        arguments: The command line after `python -m cv_lightning`.
        kind: `ConfigReader` only reads the config.

    Raises:
        ConfigError: A key, class, path or value cannot be used; the message names it and suggests close names.
        KeyboardInterrupt: Ctrl-C; if `fit` saved a checkpoint, the message names it.
    """
    (quieten if is_quiet() else ignore_harmless)()
    rest, config = compose_command_line(arguments)
    given = [f"--config={yaml.safe_dump(config, sort_keys=False)}"] if config else []
    interrupt = CheckpointOnInterrupt()
    with _located(arguments), lost_process(lambda: interrupt.folder), _plain_interrupt(interrupt):
        return kind(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveConfig,
            auto_configure_optimizers=False,  # modules create their own optimizers
            load_from_checkpoint_support=False,  # policies are exported; modules store no config
            trainer_defaults={"callbacks": [interrupt]},
            parser_kwargs={
                "prog": "python -m cv_lightning",
                "exit_on_error": False,
                "allow_abbrev": False,
            },
            args=[*rest[:1], *given, *rest[1:]],
            composed=config,
        )


#: Beginnings of warnings that need no action: the behavior is intended. Lightning's own code causes the LeafSpec one.
_HARMLESS = (
    "The '.*_dataloader' does not have many workers",
    "Experiment logs directory .* exists and is not empty",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    "`is_gradient_checkpointing` is deprecated",  # PEFT asks for it
    "You have overridden `transfer_batch_to_device` in `LightningModule` but have passed in a `LightningDataModule`",
)


def ignore_harmless() -> None:
    """Hide messages of libraries that need no action: some warnings, and Lightning's advertisement."""
    for beginning in _HARMLESS:
        warnings.filterwarnings("ignore", beginning)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_tip)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it suggests a faster CPU kernel


def _is_no_tip(record: logging.LogRecord) -> bool:
    return "Tip: For seamless" not in str(record.msg)


def quieten() -> None:
    """Limit the output of a run to progress bars, results and warnings that need action."""
    ignore_harmless()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


@contextlib.contextmanager
def _plain_interrupt(interrupt: CheckpointOnInterrupt) -> Iterator[None]:
    """Turn Lightning's exit on Ctrl-C back into a KeyboardInterrupt that says how to continue."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if error.code != 1:  # --help and --print_config end with 0
            raise
        went_on = f"interrupted; continue with --ckpt_path {interrupt.saved}" if interrupt.saved else "interrupted"
        raise KeyboardInterrupt(went_on) from error
    finally:
        interrupt.release()
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)  # Lightning's teardown restores the handlers that it found


@contextlib.contextmanager
def _located(arguments: Sequence[str]) -> Iterator[None]:
    """Add to an error whether the command line or a config file holds the faulty value."""
    try:
        yield
    except (_Refused, MisconfigurationException) as error:
        message = str(error)
        subject = message.split(":")[0].removeprefix("--").replace(".init_args", "")
        if subject in {key.replace(".init_args", "") for key, _ in command_line_options(arguments)} - {"config", "c"}:
            raise ConfigError(f"On the command line: {message}") from error
        files = config_files(arguments)
        raise ConfigError(f"In {', '.join(files)}: {message}" if files else message) from error

"""`python -m cv_lightning`: passes the command to the module that runs it, and prints an error as one message.

Nothing here imports torch, so help and light commands answer at once.
"""

from __future__ import annotations

import errno
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cv_lightning.console.quiet import take_flag
from cv_lightning.console.suggestions import did_you_mean
from cv_lightning.console.versions import version_of
from cv_lightning.errors import ConfigError, CVLightningError

_LIGHTNING = "cv_lightning.cli.lightning_cli"

#: Command of one or two words -> (module whose `main` runs it, description).
COMMANDS: dict[str, tuple[str, str]] = {
    "reproduce": ("cv_lightning.cli.reproduce", "run a recipe from nothing to a report; the tiny one by default"),
    "fit": (_LIGHTNING, "train a module on data, both named by a config"),
    "plan": ("cv_lightning.planning.command", "estimate memory and time of a config, without weights or a GPU"),
    "validate": (_LIGHTNING, "evaluate on the validation data"),
    "test": (_LIGHTNING, "evaluate on the test data, by orientation, and keep the answers"),
    "serve": ("cv_lightning.serving.command", "serve a policy as OpenAI-compatible servers do, or its tool by MCP"),
    "chat": ("cv_lightning.chat.command", "talk with a policy about an image, in the terminal or in a browser"),
    "view": ("cv_lightning.viewer.command", "show the trajectories of a run or a file as one page"),
    "compare": ("cv_lightning.compare.command", "compare runs: configs, metrics, answers, curves, tools"),
    "register": ("cv_lightning.tracking.command", "register the policy of a run as a model in MLflow"),
    "data check": ("cv_lightning.data.command", "show the content of a data file, and every fault with its row"),
    "data build": ("cv_lightning.construction.command", "write SFT episodes or RL questions, executed and checked"),
}

#: Errors of a disk that cannot be written: full, over quota, or mounted read-only.
_NOT_WRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}

#: The exit status that a shell expects from a command that Ctrl-C ended.
INTERRUPTED = 130


def usage(group: str = "") -> str:
    """The text of `--help`; for a group such as "data", only its commands."""
    commands = "\n".join(f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items() if name.startswith(group))
    return (
        "usage: python -m cv_lightning <command> [options]\n\n"
        f"commands:\n{commands}\n\n"
        "`<command> --help` lists the options of a command; --quiet hides the progress of any of them.\n"
        "Configs name classes by class_path; any value can be overridden:\n"
        "  python -m cv_lightning fit --config experiments/tiny/sft.yaml --trainer.max_steps 10\n"
    )


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status; raises `CVLightningError` if the user can correct the fault."""
    arguments = take_flag(arguments)
    first = arguments[0] if arguments else "--help"
    is_group = any(name.startswith(f"{first} ") for name in COMMANDS)
    words = arguments[:2] if is_group else [first]
    if words[-1] in {"-h", "--help", "help"} or (is_group and len(words) == 1):
        print(usage(first if is_group else ""))
        return 0
    name = " ".join(words)
    if name == "--version":
        print(version_of("cv-lightning") or "not installed (run from a checkout)")
        return 0
    if name not in COMMANDS:
        raise ConfigError(f"No command {name!r}. {did_you_mean(name, COMMANDS)} See python -m cv_lightning --help.")
    module = COMMANDS[name][0]
    command: Callable[[Sequence[str]], int] = importlib.import_module(module).main
    if name == "fit":
        importlib.import_module("cv_lightning.planning.command").check_before_fit(arguments[1:])
    # LightningCLI has subcommands and needs their name.
    return command(arguments if module == _LIGHTNING else arguments[len(words) :])


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m cv_lightning` and of the `cv-lightning` script."""
    # In a checkout that is not installed, the other packages are beside this one, whatever the working directory.
    root = str(Path(__file__).resolve().parents[1])
    if root not in sys.path:
        sys.path.insert(0, root)
    try:
        return run(sys.argv[1:] if arguments is None else arguments)
    except CVLightningError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror}. Make room, or give another --run_folder or --out.", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "interrupted", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())

"""`python -m cv_lightning data <command>`: look at data and build it, without torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence

from cv_lightning.console.suggestions import did_you_mean
from cv_lightning.errors import ConfigError

#: Command -> (module whose `main` runs it, what it does).
COMMANDS: dict[str, tuple[str, str]] = {
    "build": ("cv_lightning.construction.command", "write SFT episodes or RL questions as a config says, checked"),
    "check": ("cv_lightning.data.check", "say what a file holds, show samples, list every fault with its row"),
}


def usage() -> str:
    """The text of `data --help`."""
    commands = "\n".join(f"  {name:<8} {text}" for name, (_, text) in COMMANDS.items())
    return f"usage: python -m cv_lightning data <command> [options]\n\ncommands:\n{commands}\n"


def main(arguments: Sequence[str]) -> int:
    """Run one of `COMMANDS`; raises `ConfigError` for a command that there is not."""
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(usage())
        return 0
    if arguments[0] not in COMMANDS:
        hint = did_you_mean(arguments[0], COMMANDS)
        raise ConfigError(f"No command 'data {arguments[0]}'. {hint} See python -m cv_lightning data --help.")
    command: Callable[[Sequence[str]], int] = importlib.import_module(COMMANDS[arguments[0]][0]).main
    return command(arguments[1:])

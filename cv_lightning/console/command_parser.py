"""The parser of a command's options, which reports errors as `ConfigError` in one line."""

from __future__ import annotations

import argparse
from typing import NoReturn

from cv_lightning.errors import ConfigError


class CommandParser(argparse.ArgumentParser):
    """Options of `python -m cv_lightning <command>`; names are not abbreviated.

    Args:
        command: Name of the command.
        description: Description in its help text.

    Raises:
        ConfigError: `parse_args` raises it if the options are wrong.
    """

    def __init__(self, command: str, description: str) -> None:
        super().__init__(prog=f"python -m cv_lightning {command}", description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise `ConfigError` instead of ending the process."""
        raise ConfigError(f"{message}. See {self.prog} --help.")

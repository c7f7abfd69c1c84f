"""Wrong options end in one line that names the command."""

from __future__ import annotations

import pytest

from cv_lightning.console.command_parser import CommandParser
from cv_lightning.errors import ConfigError


@pytest.mark.parametrize("arguments", [["--nothing"], ["--number", "x"], ["--numb", "3"]])
def test_wrong_options_are_config_errors_with_the_way_to_the_help(arguments: list[str]) -> None:
    parser = CommandParser("data check", "Reads.")
    parser.add_argument("--number", type=int)
    with pytest.raises(ConfigError, match=r"See python -m cv_lightning data check --help\."):
        parser.parse_args(arguments)

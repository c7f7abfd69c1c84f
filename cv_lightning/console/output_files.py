"""Output files of a command: the path is checked before the work, and no incomplete file is left."""

from __future__ import annotations

from pathlib import Path

from cv_lightning.errors import ConfigError, DataError


def check_place(path: Path, option: str) -> None:
    """Check that a path can name an output file.

    Raises:
        ConfigError: The path is a folder, or its parent folder does not exist.
    """
    if path.is_dir():
        raise ConfigError(f"{option}: {path} is a folder. Name a file in it.")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"{option}: {path}: there is no folder {str(path.parent)!r} to write to.")


def write_whole(path: Path, text: str, option: str) -> None:
    """Write a text as UTF-8 to a temporary file beside `path`, then rename it.

    Raises:
        DataError: The file cannot be written.
    """
    try:
        if path.exists() and not path.is_file():  # a device or a pipe is written to, never replaced
            path.write_text(text, encoding="utf-8")
            return
        new = path.with_name(f"{path.name}.new")
        new.write_text(text, encoding="utf-8")
        new.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error}). Name another place with {option}.") from error

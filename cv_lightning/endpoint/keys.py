"""Checks addresses and keys of servers."""

from __future__ import annotations

import os

from cv_lightning.errors import ConfigError


def check_url(url: str, name: str) -> None:
    """Raise `ConfigError` for an address that is not http or https; `name` is its name in the error."""
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"{name}: expected an address that starts with http:// or https://, got {url!r}")


def read_key(variable: str | None) -> str | None:
    """The API key in an environment variable; None if it is not set.

    Raises:
        ConfigError: The key has characters that an HTTP header must not contain; the message does not show the key.
    """
    key = os.environ.get(variable, "").strip() if variable else ""
    if not key.isascii() or not key.isprintable():
        raise ConfigError(f"The API key in {variable} contains characters that no key has. Set the variable again.")
    return key or None

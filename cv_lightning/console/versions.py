"""Versions of installed packages from their metadata: `torch.__version__` may add a label such as "+cu130"."""

from __future__ import annotations

import importlib.metadata
import platform

#: Packages that affect numerical results.
_NUMBERS = ("python", "cv-lightning", "torch", "lightning", "transformers", "numpy", "pillow", "opencv-python-headless")


def version_of(package: str) -> str | None:
    """The version of a package, or of "python"; None if it is not installed."""
    if package == "python":
        return platform.python_version()
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions(packages: tuple[str, ...] = _NUMBERS) -> dict[str, str]:
    """Versions of those `packages` that are installed; by default, packages that affect numerical results."""
    return {package: number for package in packages if (number := version_of(package)) is not None}


def all_versions() -> dict[str, str]:
    """Versions of all installed packages, by lower-case name; for a duplicate, the version that Python imports."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        if name := distribution.metadata["Name"]:
            found.setdefault(name.lower(), distribution.version)
    return found

"""Loads a script of benchmarks/, which is in no package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]


def load_script(name: str) -> ModuleType:
    """The module `benchmarks/<name>.py`."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"benchmarks/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module, path = importlib.util.module_from_spec(spec), sys.path[:]
    spec.loader.exec_module(module)
    sys.path[:] = path  # the script puts the repository into it
    return module

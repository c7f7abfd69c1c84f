"""Import rules between the top-level packages: which may import which (see CONTRIBUTING.md)."""

from __future__ import annotations

import ast
import configparser
import fnmatch
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOUSES = ("cv_lightning", "modules", "callbacks", "sandbox")
FILES = sorted(path for house in HOUSES for path in (ROOT / house).rglob("*.py"))

#: The top-level packages that each of them may import besides itself.
MAY_IMPORT = {
    "sandbox": set(),
    "cv_lightning": {"sandbox"},
    "modules": {"cv_lightning", "sandbox"},
    "callbacks": {"cv_lightning", "sandbox"},
}

#: A command is a composition root: it may import every top-level package.
ROOTS = ("__main__.py", "command.py")

#: The only places that may import a library, as path prefixes below the root.
ONLY_IN = {
    "mlflow": ("callbacks/mlflow/", "cv_lightning/tracking/"),
    "kornia": ("sandbox/lanes/tensor/", "cv_lightning/data/corruption.py"),
    "peft": ("modules/policy/",),
    "transformers": ("modules/policy/",),
    "openai": ("cv_lightning/endpoint/",),
    "mcp": ("cv_lightning/serving/",),
    "fastapi": ("cv_lightning/serving/", "cv_lightning/chat/page/"),
}

#: Files that must not import torch, so that code without torch starts fast; the tensor lane is an exception.
WITHOUT_TORCH = ("cv_lightning/__main__.py", "cv_lightning/types.py", "cv_lightning/errors.py", "sandbox/")


def imported_modules(source: str) -> Iterator[str]:
    """Full names of all modules that a source imports, including imports inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import in line {node.lineno}"
            yield node.module or ""


def imports_of(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported_modules(path.read_text(encoding="utf-8"))}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_stay_inside_the_walls(path: Path) -> None:
    house = path.relative_to(ROOT).parts[0]
    foreign = imports_of(path) & set(HOUSES) - {house} - MAY_IMPORT[house]
    assert path.name in ROOTS or not foreign, f"{name_of(path)} imports {foreign}"
    assert "experiments" not in imports_of(path)
    assert "tests" not in imports_of(path)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_library_is_imported_only_where_it_belongs(path: Path) -> None:
    astray = {
        library
        for library, homes in ONLY_IN.items()
        if library in imports_of(path) and not name_of(path).startswith(homes)
    }
    assert not astray, f"{name_of(path)} imports {astray}"


LIGHT = [p for p in FILES if name_of(p).startswith(WITHOUT_TORCH) and "sandbox/lanes/tensor/" not in name_of(p)]


@pytest.mark.parametrize("path", LIGHT, ids=name_of)
def test_light_files_import_no_torch(path: Path) -> None:
    module_level = ast.Module(body=ast.parse(path.read_text(encoding="utf-8")).body, type_ignores=[])
    heavy = {"torch", "lightning", "transformers"} & {
        name.partition(".")[0] for name in imported_modules(ast.unparse(module_level))
    }
    assert not heavy, f"{name_of(path)} imports {heavy}"


# ---- packages --------------------------------------------------------------------------------------------------------


def room_of(module: str) -> str | None:
    """The subpackage or top-level file that contains one of our modules, as `package.name`; None if there is none."""
    house, *parts = module.split(".")
    if house not in HOUSES or not parts:
        return None
    place = ROOT / house / parts[0]
    return f"{house}.{parts[0]}" if place.is_dir() or place.with_suffix(".py").is_file() else None


def rooms_imported(path: Path) -> set[str]:
    """The subpackages and top-level files that a file imports anywhere, except under `if TYPE_CHECKING`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    ]
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {room for name in names if (room := room_of(name)) is not None}


def circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """Import cycles, as sets of nodes that all reach each other."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        pending = [start]
        while pending:
            new = graph.get(pending.pop(), set()) - found
            found |= new
            pending += new
        return found

    reach = {room: reached(room) for room in graph}
    mutual = {room: frozenset(other for other in reach[room] if room in reach.get(other, ())) for room in graph}
    return {each for each in mutual.values() if len(each) > 1}


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == {frozenset({"b", "c"})}


def test_no_circle_between_the_rooms_of_a_house() -> None:
    graph: dict[str, set[str]] = {}
    for path in FILES:
        room = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
        if room is not None and path.name not in ROOTS:
            graph.setdefault(room, set()).update(rooms_imported(path) - {room})
    assert not circles(graph)


def test_few_files_lie_at_the_door() -> None:
    assert len(list((ROOT / "cv_lightning").glob("*.py"))) <= 12


def test_every_file_of_a_house_is_in_the_wheel() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    data = {
        package: patterns.replace(" ", "").split(",") for package, patterns in config["options.package_data"].items()
    }
    others = [
        path
        for house in (*HOUSES, "experiments")
        for path in (ROOT / house).rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc", ".md"}
    ]
    left_out = [
        name_of(path)
        for path in others
        if not any(
            fnmatch.fnmatch(path.name, pattern)
            for pattern in [*data["*"], *data.get(".".join(path.relative_to(ROOT).parent.parts), [])]
        )
    ]
    assert others
    assert not left_out, f"name them under [options.package_data] in setup.cfg: {left_out}"


def test_an_executor_without_a_device_imports_no_torch() -> None:
    code = """
import sys
from PIL import Image
from sandbox import ToolExecutor, ToolRequest
image = Image.new("RGB", (8, 6))
(observation,) = ToolExecutor().execute([ToolRequest("result = image.rotate(180)", [image])])
assert observation.lane == "pillow", observation
assert not {"torch", "kornia", "sandbox.lanes.tensor"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_no_two_classes_have_one_name() -> None:
    homes: dict[str, list[str]] = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(f"{name_of(path)}:{node.lineno}")
    assert not {name: places for name, places in homes.items() if len(places) > 1}


def test_no_file_evaluates_text() -> None:
    calls = [
        f"{name_of(path)}:{node.lineno}"
        for path in FILES
        if not name_of(path).startswith("sandbox/confined/")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"exec", "eval"}
    ]
    assert not calls


def test_every_library_we_import_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.split(r"[<>=\[ ]", requirement)[0].lower() for requirement in project["dependencies"]}
    installed_by = importlib.metadata.packages_distributions()
    used = {name for path in FILES for name in imports_of(path)} - set(sys.stdlib_module_names) - set(HOUSES)
    undeclared = {name for name in used if not {d.lower() for d in installed_by.get(name, [name])} & declared}
    assert not undeclared


def test_every_upper_bound_gives_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    dependencies = text[text.index("dependencies = [") : text.index("[project.optional-dependencies]")]
    bounded = [line for line in dependencies.splitlines() if line.strip().startswith('"') and "<" in line]
    assert bounded
    assert not [line for line in bounded if "#" not in line]


def test_setup_cfg_and_pyproject_say_nothing_twice() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "setuptools" not in pyproject["tool"]
    assert "[metadata]" not in (ROOT / "setup.cfg").read_text(encoding="utf-8")


def test_every_folder_with_code_is_a_package() -> None:
    bare = {name_of(path.parent) for path in FILES if not (path.parent / "__init__.py").exists()}
    assert not bare, f"setuptools leaves out folders without __init__.py: {bare}"


def test_ci_runs_the_test_command_of_the_readme() -> None:
    command = "pip install -e '.[test]' && pytest -n 2"
    for file in ("README.md", ".ci/run"):
        assert command in (ROOT / file).read_text(encoding="utf-8").splitlines(), file


def test_only_tests_without_init_files() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))


#: Modules without tests of their own, with the reason.
WITHOUT_TWIN = {"modules/samplers/sampler.py": "an interface: its tests are those of the samplers"}


def does_something(path: Path) -> bool:
    """Whether a module has a function with more than a docstring."""
    return any(
        isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.body[ast.get_docstring(node) is not None :]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    )


def test_every_module_has_its_tests_in_the_file_of_its_name() -> None:
    tests = {path.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    alone = {
        name_of(path)
        for path in FILES
        if path.relative_to(ROOT).with_name(f"test_{path.stem.strip('_')}.py") not in tests
        if path.name != "__init__.py" and does_something(path)
    }
    assert alone == WITHOUT_TWIN.keys()
    assert not {path.parent for path in tests} - {path.parent.relative_to(ROOT) for path in FILES} - {Path()}

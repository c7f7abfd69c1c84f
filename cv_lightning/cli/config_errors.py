"""One-line messages for configs that jsonargparse rejects: the key, and the closest valid name.

jsonargparse checks configs and says which value has a wrong type, but it cannot suggest names. So `explain` searches
the config for an unknown class or key, and uses the message of jsonargparse if there is none.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re
import typing
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from cv_lightning.cli.compose import ROOT
from cv_lightning.console.suggestions import did_you_mean

#: Top-level packages whose classes a config may name.
_HOUSES = ("callbacks", "cv_lightning", "modules", "sandbox")

_KEY = re.compile(r'(?:- )?Parser key "(?P<key>[^"]+)":\s*(?P<rest>.*)')
_EXPECTED = re.compile(r"(?:- )?Expected an? (?P<type>.+?)(?:\. Got value: (?P<value>.*))?$")
_GIVEN = re.compile(r"Given value: (?P<value>.*)")
_LITERAL = re.compile(r"typing\.Literal\[(.*)\]")
_NOT_A_SUBCLASS = re.compile(r"Import path (?P<path>\S+) does not correspond to a subclass of (?P<base>\w+)")
_MISSING = re.compile(r"arguments are required: (?P<names>.*)")
_UNRECOGNIZED = re.compile(r"[Uu]nrecognized arguments: --(?P<name>[^\s=]+)")


def explain(message: str, config: Mapping[str, Any], options: Collection[str]) -> str:
    """Explain an error of jsonargparse in one line.

    Args:
        message: The message of jsonargparse.
        config: The composed config that jsonargparse parsed.
        options: Dotted names of all options.
    """
    if _NOT_A_SUBCLASS.search(message):
        return _wrong_value(message, config)
    for fault in _unknown_names(config, options):
        return fault
    if match := _UNRECOGNIZED.search(message):
        return f"--{match['name']}: there is no such option. {_nearby(match['name'], options)}"
    if match := _MISSING.search(message):
        names = re.sub(r"\b(fit|validate|test)\.", "", match["names"])
        return f"{names}: required, but missing."
    return _wrong_value(message, config)


# ---- unknown names ---------------------------------------------------------------------------------------------------


def _unknown_names(config: Mapping[str, Any], options: Collection[str]) -> Iterator[str]:
    """A line for each unknown key or class."""
    for name, value in config.items():
        if not any(option.split(".")[0] == name for option in options):
            yield f"{name}: there is no such key. {_nearby(name, options)}"
        elif isinstance(value, dict) and "class_path" not in value:
            for key, inner in value.items():
                if f"{name}.{key}" not in options:
                    yield f"{name}.{key}: there is no such key. {_nearby(f'{name}.{key}', options)}"
                yield from _faults(f"{name}.{key}", inner, None)
        else:
            yield from _faults(name, value, None)


def _nearby(name: str, options: Collection[str]) -> str:
    """Suggestions from the options of the same group: `trainer.max_step` is compared with `trainer.*`."""
    group, dot, _ = name.rpartition(".")
    same_group = [option for option in options if option.startswith(f"{group}.")] if dot else []
    roots = {option.partition(".")[0] for option in options} - {"help"}
    return did_you_mean(name, same_group) if same_group else did_you_mean(name.partition(".")[0], roots)


def _faults(place: str, value: Any, hint: Any) -> Iterator[str]:
    """The unknown names in a value: a class, a dataclass of the type `hint`, or a list of either."""
    if isinstance(value, list):
        for item in value:
            yield from _faults(place, item, hint)
    elif isinstance(value, dict) and isinstance(path := value.get("class_path"), str):
        cls = class_at(path)
        if cls is None:
            yield f"{place}: {_missing_class(path)}"
        else:
            yield from _unknown_arguments(f"{place}.init_args", value.get("init_args") or {}, cls, path)
    elif isinstance(value, dict) and (found := _dataclass_in(hint)) is not None:
        yield from _unknown_arguments(place, value, found, found.__name__)


def _unknown_arguments(place: str, given: Mapping[str, Any], cls: type, name: str) -> Iterator[str]:
    accepted = arguments_of(cls)
    for key, value in given.items():
        if key not in accepted:
            yield f"{place}.{key}: {name} has no argument {key!r}. {did_you_mean(key, accepted)}"
        else:
            yield from _faults(f"{place}.{key}", value, accepted[key])


def arguments_of(cls: type) -> dict[str, Any]:
    """Arguments of a constructor, with those that `**kwargs` passes to base classes: name -> type, None if unknown."""
    found: dict[str, Any] = {}
    for base in inspect.getmro(cls):
        if (init := vars(base).get("__init__")) is None:
            continue
        try:
            hints = typing.get_type_hints(init)
        except (NameError, TypeError):  # names that are imported for type checkers only
            hints = {}
        parameters = list(inspect.signature(init).parameters.values())[1:]
        named = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        found |= {name: hints.get(name) for name in named if name not in found}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found


def _dataclass_in(hint: Any) -> type | None:
    """The dataclass of a type such as `Config | None`."""
    candidates = (hint, *typing.get_args(hint))
    return next((each for each in candidates if inspect.isclass(each) and dataclasses.is_dataclass(each)), None)


# ---- classes ---------------------------------------------------------------------------------------------------------


def class_at(path: str) -> Any | None:
    """The class at a class_path; None if there is none."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return None


def _missing_class(path: str) -> str:
    """Why a class cannot be imported, and what to write instead."""
    module, _, name = path.rpartition(".")
    if public := public_path(name):
        return f"there is no class {path!r}. Write {public!r}."
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and not path.startswith(error.name):
            return f"{path} needs the module {error.name!r}, which is not installed."
        missing = error.name or module
        near = did_you_mean(missing, _modules_beside(missing))
        return f"there is no module {missing!r} (class_path {path!r}). {near}"
    except (ImportError, ValueError) as error:
        return f"{path} cannot be imported: {error}."
    classes = [each for each in dir(found) if not each.startswith("_") and inspect.isclass(getattr(found, each))]
    return f"module {module!r} has no class {name!r}. {did_you_mean(name, classes)}"


def public_path(name: str) -> str | None:
    """The class_path of a public name, through the package of this project that re-exports it; None if none does."""
    stubs = [stub for house in _HOUSES for stub in sorted((ROOT / house).rglob("__init__.pyi"))]
    packages = [".".join(stub.parent.relative_to(ROOT).parts) for stub in stubs]
    homes = [package for package in packages if name in importlib.import_module(package).__all__]
    return f"{min(homes, key=lambda home: home.count('.'))}.{name}" if homes else None


def _modules_beside(module: str) -> list[str]:
    """Full names of the modules beside `module` in its package; the top-level packages if `module` is one itself."""
    parent = module.rpartition(".")[0]
    if not parent:
        return [*_HOUSES, "lightning", "torch"]
    try:
        return [f"{parent}.{info.name}" for info in pkgutil.iter_modules(importlib.import_module(parent).__path__)]
    except (ImportError, AttributeError):
        return []


# ---- wrong values ----------------------------------------------------------------------------------------------------


def _wrong_value(message: str, config: Mapping[str, Any]) -> str:
    """The fault of a value: the deepest refusal in the indented tree of refusals that jsonargparse prints."""
    refusals: list[tuple[list[str], str, str]] = []  # keys, the type that was expected, the value
    stack: list[tuple[int, str]] = []
    for line in filter(str.strip, message.splitlines()):
        text, indent = line.strip(), len(line) - len(line.lstrip())
        stack = [(at, key) for at, key in stack if at < indent]
        if match := _KEY.match(text):
            stack += [(indent, key) for key in match["key"].split(".")]
            text = match["rest"]
        keys = [key for _, key in stack]
        if match := _NOT_A_SUBCLASS.search(text):
            refusals.append((keys, match["base"], match["path"]))
        elif (match := _EXPECTED.match(text)) and "NoneType" not in match["type"]:
            refusals.append((keys, _in_words(match["type"]), match["value"] or ""))
        elif match := _GIVEN.match(text):
            refusals = [(at, kind, value or (match["value"] if at == keys else "")) for at, kind, value in refusals]
    if not refusals:
        return " ".join(message.split())
    keys, _, value = max(refusals, key=lambda refusal: len(refusal[0]))
    wanted = dict.fromkeys(kind for at, kind, _ in refusals if at == keys)
    return f"{'.'.join(_with_init_args(keys, config))}: expected {' or '.join(wanted)}, got {value!r}."


def _in_words(kind: str) -> str:
    """A type as jsonargparse prints it, in words."""
    choices = _LITERAL.match(kind)
    return f"one of {choices[1]}" if choices else re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", kind)


def _with_init_args(keys: list[str], config: Any) -> Iterator[str]:
    """The keys as the config has them, with the `init_args` that jsonargparse leaves out."""
    node = config
    for key in keys:
        if isinstance(node, dict) and "class_path" in node:
            yield "init_args"
            node = node.get("init_args")
        yield key
        node = node.get(key) if isinstance(node, dict) else None

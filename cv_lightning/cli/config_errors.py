"""The complaints of jsonargparse in words: what was wrong, where, and the closest valid names.

jsonargparse reports an indented tree: the keys and classes it walked through, one branch per type it tried, and at the
leaves the reason of each refusal. The reason that lies deepest is the one a person can act upon.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cv_lightning.console.suggestions import did_you_mean

_KEY = re.compile(r'Parser key "(?P<key>[^"]+)":\s*(?P<rest>.*)')
_CLASS = re.compile(r"Problem with given class_path '(?P<path>[^']+)':")
_GIVEN = re.compile(r"Given value: (?P<value>.*)")
_TYPE = re.compile(r"<class '(?P<name>[^']+)'>")

#: Lines that repeat the input or list what was tried.
_NOISE = (
    "Does not validate",
    "Subtypes:",
    "Errors:",
    "Given value",
    "Subclass types expect",
    "- a ",
    "a class path",
    "a dict",
)


@dataclass(frozen=True)
class Reason:
    """One refusal: the keys that lead to it, the class it happened in, and jsonargparse's words.

    Attributes:
        keys: Keys from the root of the config.
        class_path: The innermost class_path on the way, "" outside of classes.
        text: The refusal.
        value: The refused value as text, "" where it is not given.
    """

    keys: tuple[str, ...]
    class_path: str
    text: str
    value: str = ""

    @property
    def place(self) -> str:
        """The dotted key as it is written on the command line."""
        return ".".join(self.keys)


def explain(message: str, options: Iterable[str] = ()) -> str:
    """One plain sentence or two for a message of jsonargparse.

    Args:
        message: The text of its ArgumentError.
        options: The dotted names that the parser knows.
    """
    reasons = list(_reasons(message))
    if not reasons:
        return message.strip()
    deepest = max(len(reason.keys) + bool(reason.class_path) for reason in reasons)
    best = [reason for reason in reasons if len(reason.keys) + bool(reason.class_path) == deepest]
    informative = [
        reason
        for reason in best
        if not reason.text.startswith(("Not a valid subclass", "Expected a <class 'NoneType'"))
    ]
    return _in_words(informative or best, sorted(options)).rstrip()


def _reasons(message: str) -> Iterator[Reason]:
    """Walk the indented tree; yields its leaves."""
    stack: list[tuple[int, Reason]] = []
    pending: list[Reason] = []
    for line in filter(str.strip, message.splitlines()):
        text = line.strip()
        bare = text.removeprefix("- ")
        indent = len(line) - len(line.lstrip())
        while stack and stack[-1][0] >= indent:
            stack.pop()
        parent = stack[-1][1] if stack else Reason((), "", "")
        if match := _KEY.match(bare):
            within = _arguments_key(parent.class_path) if parent.text == "class" else ()
            key = Reason((*parent.keys, *within, *match["key"].split(".")), parent.class_path, "key")
            stack.append((indent, key))
            if match["rest"]:
                pending.append(Reason(key.keys, key.class_path, match["rest"]))
        elif match := _CLASS.match(bare):
            stack.append((indent, Reason(parent.keys, match["path"], "class")))
        elif match := _GIVEN.match(bare):
            pending = [_with_value(reason, parent, match["value"]) for reason in pending]
        elif bare and not text.startswith(_NOISE) and not bare.startswith(_NOISE):
            pending.append(Reason(parent.keys, parent.class_path, bare))
    yield from pending


def _with_value(reason: Reason, parent: Reason, value: str) -> Reason:
    same_place = reason.keys == parent.keys and reason.class_path == parent.class_path
    return Reason(reason.keys, reason.class_path, reason.text, value) if same_place and not reason.value else reason


def _in_words(reasons: Sequence[Reason], options: Sequence[str]) -> str:
    for pattern, words in _PHRASES:
        for reason in reasons:
            if match := pattern.search(reason.text):
                return words(reason, match, options)
    return _types_in_words(reasons)


def _types_in_words(reasons: Sequence[Reason]) -> str:
    first = reasons[0]
    wanted = [match["name"] for reason in reasons if (match := _TYPE.search(reason.text))]
    got = re.search(r"Got value: (?P<value>.*)", first.text)
    value = got["value"] if got else first.value
    place = f"{first.place}: " if first.place else ""
    within = f" (of {first.class_path})" if first.class_path else ""
    if wanted and value:
        names = " or ".join(name.rpartition(".")[2] for name in dict.fromkeys(wanted))
        return f"{place}expected {names} but got {value!r}{within}."
    got_value = f" Got {value!r}." if value and value not in first.text else ""
    return f"{place}{'; '.join(dict.fromkeys(reason.text for reason in reasons))}.{got_value}"


def _unknown_argument(reason: Reason, match: re.Match[str], options: Sequence[str]) -> str:
    if reason.class_path:
        return _unknown_argument_of(reason, match["name"].partition(".")[0])
    return f"{match['name']}: there is no such key. {_nearby(match['name'], options)}"


def _unknown_in_group(reason: Reason, match: re.Match[str], options: Sequence[str]) -> str:
    """A key of a dataclass within a dataclass: jsonargparse names the field, not its class."""
    names = list(reason.keys)
    cls = _import(reason.class_path)
    for field in match["group"].split("."):
        names.append(field)
        cls = typing.get_type_hints(cls).get(field) if cls is not None else None
    accepted = [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []
    place = ".".join([*names, match["name"]])
    return f"{place}: there is no such key. {did_you_mean(match['name'], accepted)}"


def _unknown_argument_of(reason: Reason, name: str) -> str:
    accepted = parameters_of(reason.class_path)
    place = ".".join((*reason.keys, *_arguments_key(reason.class_path), name))
    return f"{place}: {reason.class_path} has no argument {name!r}. {did_you_mean(name, accepted)}"


def _nearby(name: str, options: Sequence[str]) -> str:
    """Suggestions among the options of the same group: `trainer.max_step` is compared with `trainer.*`."""
    group, dot, _ = name.rpartition(".")
    same_group = [option for option in options if option.startswith(f"{group}.")] if dot else []
    return did_you_mean(name, same_group) if same_group else did_you_mean(name.partition(".")[0], _roots(options))


def _roots(options: Sequence[str]) -> set[str]:
    return {option.partition(".")[0] for option in options} - {"help"}


def _not_a_choice(reason: Reason, match: re.Match[str], options: Sequence[str]) -> str:
    return f"{_place(reason)}expected one of {match['valid']} but got {match['value']!r}."


def _unknown_class(reason: Reason, match: re.Match[str], options: Sequence[str]) -> str:
    if (module := f"{match['module']}.{match['name']}") != reason.class_path and reason.class_path.startswith(module):
        near = did_you_mean(module, modules_beside(module))
        return f"{_place(reason)}no module {module!r} for class_path {reason.class_path!r}. {near}"
    return f"{_place(reason)}module {match['module']!r} has no class {match['name']!r}. " + did_you_mean(
        match["name"], classes_in(match["module"])
    )


def _unknown_module(reason: Reason, match: re.Match[str], options: Sequence[str]) -> str:
    missing = match["module"]
    if not reason.class_path.startswith(missing):
        return f"{_place(reason)}{reason.class_path} needs the module {missing!r}, which is not installed."
    return f"{_place(reason)}no module {missing!r} for class_path {reason.class_path!r}. " + did_you_mean(
        missing, modules_beside(missing)
    )


def _not_a_subclass(reason: Reason, match: re.Match[str], options: Sequence[str]) -> str:
    return f"{_place(reason)}{match['path']} is not a {match['base']}, which is what this key takes."


def _missing(reason: Reason, match: re.Match[str], options: Sequence[str]) -> str:
    names = re.sub(r"\b(fit|validate|test|predict)\.", "", match["names"])
    return f"{_place(reason)}{names} must be given, and is not."


def _no_file(reason: Reason, match: re.Match[str], options: Sequence[str]) -> str:
    path = Path(match["path"])
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    beside = [str(shown.with_name(other.name)) for other in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
    return f"there is no file {str(shown)!r}. " + (did_you_mean(str(shown), beside) if beside else "")


def _not_yaml(reason: Reason, match: re.Match[str], options: Sequence[str]) -> str:
    what = match["what"]
    missing = re.match(r"Interpolation key '(?P<name>[^']+)' not found", what)
    return f"${{{missing['name']}}}: the config has no key of this name." if missing else f"not valid YAML: {what}."


def _bad_choice(reason: Reason, match: re.Match[str], options: Sequence[str]) -> str:
    name = match["name"].strip("'")
    return f"No command {name!r}. " + did_you_mean(name, re.findall(r"'([^']+)'", match["valid"]))


def _unrecognised(reason: Reason, match: re.Match[str], options: Sequence[str]) -> str:
    name = re.split(r"[ =]", match["name"])[0].lstrip("-")
    if reason.class_path:
        return _unknown_argument_of(reason, name.partition(".")[0])
    return f"--{name}: there is no such option. {_nearby(name, options)}"


def _place(reason: Reason) -> str:
    return f"{reason.place}: " if reason.place else ""


Words = Callable[[Reason, "re.Match[str]", Sequence[str]], str]
_PHRASES: tuple[tuple[re.Pattern[str], Words], ...] = (
    (re.compile(r"[Uu]nrecognized arguments: (?P<name>\S+)"), _unrecognised),
    (re.compile(r"invalid choice: (?P<name>'[^']*') \(choose from (?P<valid>.*)\)"), _bad_choice),
    (re.compile(r"Group '(?P<group>[^']+)' does not accept option '(?P<name>[^']+)'"), _unknown_in_group),
    (re.compile(r"(?:does not accept option|Option) '(?P<name>[^']+)'"), _unknown_argument),
    (re.compile(r"Expected a typing\.Literal\[(?P<valid>.*)\]\. Got value: (?P<value>.*)"), _not_a_choice),
    (re.compile(r"File does not exist: '(?P<path>[^']+)'"), _no_file),
    (re.compile(r"Problems parsing config: (?P<what>.*)"), _not_yaml),
    (re.compile(r"module '(?P<module>[^']+)' has no attribute '(?P<name>[^']+)'"), _unknown_class),
    (re.compile(r"No (?P<module>[\w.]+) attribute (?P<name>\w+)"), _unknown_class),  # a package of ours: lazy_loader
    (re.compile(r"No module named '(?P<module>[^']+)'"), _unknown_module),
    (re.compile(r"Import path (?P<path>\S+) does not correspond to a subclass of (?P<base>\w+)"), _not_a_subclass),
    (re.compile(r"arguments are required: (?P<names>.*)"), _missing),
)


def _import(class_path: str) -> Any | None:
    module, _, name = class_path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return None


def _arguments_key(class_path: str) -> tuple[str, ...]:
    """Where the arguments of a class stand in a config; those of a dataclass need no class_path beside them."""
    return () if dataclasses.is_dataclass(_import(class_path)) else ("init_args",)


def parameters_of(class_path: str) -> list[str]:
    """Names that the constructor of a class accepts, through `**kwargs` up its bases."""
    cls = _import(class_path)
    if cls is None:
        return []
    names: list[str] = []
    for base in inspect.getmro(cls):
        if "__init__" not in vars(base):
            continue
        parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
        names += [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return list(dict.fromkeys(names))


def classes_in(module: str) -> list[str]:
    """Public classes that a module offers."""
    try:
        found = importlib.import_module(module)
    except ImportError:
        return []
    return [name for name in dir(found) if not name.startswith("_") and inspect.isclass(getattr(found, name))]


def modules_beside(module: str) -> list[str]:
    """Full names of the modules in the package that holds `module`; of this project's packages for a root module."""
    parent, _, _ = module.rpartition(".")
    if not parent:
        return ["callbacks", "cv_lightning", "lightning", "modules", "sandbox", "torch"]
    try:
        paths = importlib.import_module(parent).__path__
    except (ImportError, AttributeError):
        return []
    return [f"{parent}.{info.name}" for info in pkgutil.iter_modules(paths)]

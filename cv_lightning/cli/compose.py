"""One config composed of several files.

A file names the files that it builds on; its own values replace theirs:

    include: [../shared/sft.yaml]     # paths relative to this file
    settings: {stage: sft}            # values that only `${settings.stage}` reads
    trainer:
      callbacks+:                     # `key+` adds to a list, `key` replaces it
        - class_path: callbacks.Trajectories

`${...}` is resolved last, in the composed config.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from cv_lightning.console.suggestions import did_you_mean
from cv_lightning.errors import ConfigError, first_line

#: The checkout, or the folder that the project is installed in: it contains `experiments/`.
ROOT = Path(__file__).resolve().parents[2]

_CONFIG_OPTIONS = ("--config", "-c")


def find_file(path: Path) -> Path:
    """The file at `path`, relative to the working directory, else relative to `ROOT`.

    Raises:
        ConfigError: The file is in neither place.
    """
    for candidate in (path, ROOT / path):
        if candidate.is_file():
            return candidate.resolve()
    beside = [str(other) for other in path.parent.glob("*.yaml")]
    shipped = [str(other.relative_to(ROOT)) for other in (ROOT / "experiments").glob("*/*.yaml")]
    raise ConfigError(
        f"There is no file {str(path)!r}, here or in {ROOT}. {did_you_mean(str(path), beside or shipped)}"
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a file, with `${...}` unresolved.

    Raises:
        ConfigError: The file cannot be read, or does not hold a mapping.
    """
    try:
        content = get_loader("yaml")(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping, got {type(content).__name__}.")
    return {str(key): value for key, value in content.items()}


def compose(files: Sequence[Path], overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The config composed of files, without `include` and `settings`.

    Args:
        files: Later files override earlier ones.
        overrides: Values by dotted key; a key that has no place in the files is ignored, see `place_of`.

    Raises:
        ConfigError: A file is missing or is not YAML, files include each other, or `${...}` names no key.
    """
    config = compose_unresolved(files)
    for key, value in (overrides or {}).items():
        node, name = place_of(config, key)
        if node is not None:
            node[name] = value
    try:
        resolved: Any = OmegaConf.to_container(OmegaConf.create(config), resolve=True)
    except InterpolationKeyError as error:
        missing = str(error).partition("'")[2].partition("'")[0]
        raise ConfigError(f"{_named(files)}: ${{{missing}}}: the config has no key of this name.") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{_named(files)}: {first_line(error)}") from error
    return {key: value for key, value in resolved.items() if key != "settings"}


def compose_unresolved(files: Sequence[Path]) -> dict[str, Any]:
    """The config composed of files, before overrides are set and `${...}` is resolved."""
    config: Any = {}
    for file in files:
        config = merged(config, _with_included(find_file(file), ()))
    return dict(config)


def _with_included(path: Path, including: tuple[Path, ...]) -> dict[str, Any]:
    if path in including:
        raise ConfigError(f"{path}: include: the file includes itself, by way of {_named(including)}.")
    content = read_yaml(path)
    config: Any = {}
    for other in as_list(content.pop("include", None)):
        target = (path.parent / str(other)).resolve()
        if not target.is_file():
            beside = [os.path.relpath(file, path.parent) for file in target.parent.glob("*.yaml")]
            raise ConfigError(f"{path}: include: there is no file {str(other)!r}. {did_you_mean(str(other), beside)}")
        config = merged(config, _with_included(target, (*including, path)))
    return dict(merged(config, content))


def merged(base: Any, top: Any) -> Any:
    """`top` over `base`: mappings merge by key, other values are replaced; a new class drops the old arguments."""
    if not isinstance(base, dict) or not isinstance(top, dict):
        return top
    if "class_path" in base and base["class_path"] != top.get("class_path", base["class_path"]):
        return top
    result = dict(base)
    for key, value in top.items():
        if key.endswith("+"):
            result[key[:-1]] = [*as_list(result.get(key[:-1])), *as_list(value)]
        else:
            result[key] = merged(result.get(key), value)
    return result


def as_list(value: Any) -> list[Any]:
    """A value that may be one item or a list of items, as a list; None is the empty list."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def place_of(config: Mapping[str, Any], key: str) -> tuple[dict[str, Any] | None, str]:
    """The mapping of a config that holds, or would hold, a dotted key, and the last part of the key.

    `init_args` may be left out, as in `model.lr`. The mapping is None if the config has no place for the key: the key
    is a new top-level key, or sets a `class_path`.
    """
    *path, name = key.split(".")
    node: Any = config
    for part in path:
        node = _arguments(node, part).get(part)
    node = _arguments(node, name)
    is_place = node is not _NOWHERE and name != "class_path" and (bool(path) or name in node)
    return (node if is_place else None), name


#: Stands for a place that is not in a config.
_NOWHERE: dict[str, Any] = {}


def _arguments(node: Any, key: str) -> dict[str, Any]:
    """The mapping in which a key of a node is looked up: the arguments if the node is a class."""
    if not isinstance(node, dict) or key == "help":
        return _NOWHERE
    if "class_path" in node and key not in {"class_path", "init_args", "dict_kwargs"}:
        arguments: dict[str, Any] = node.setdefault("init_args", {})
        return arguments
    return node


def compose_command_line(arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Split a command line into the remaining arguments and the composed config.

    An option for a value in the files is set in the config and not returned as an argument, so that `${...}` references
    to it use the new value.

    Raises:
        ConfigError: See `compose`.
    """
    files = [Path(file) for file in config_files(arguments)]
    if not files:
        return list(arguments), {}
    places = compose_unresolved(files)
    overrides: dict[str, Any] = {}
    rest: list[str] = []
    tokens = iter(arguments)
    for token in tokens:
        key, equals, value = token.removeprefix("--").partition("=")
        if token in _CONFIG_OPTIONS:
            next(tokens, "")
        elif token.partition("=")[0] in _CONFIG_OPTIONS:
            continue
        elif token.startswith("--") and place_of(places, key)[0] is not None:
            overrides[key] = get_loader("yaml")(value if equals else next(tokens, ""))
        else:
            rest.append(token)
    return rest, compose(files, overrides)


def command_line_options(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The `--key value` and `--key=value` pairs of a command line; keys come without dashes."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument.startswith("-"):
            key, equals, value = argument.lstrip("-").partition("=")
            yield key, value if equals else following


def config_files(arguments: Sequence[str]) -> list[str]:
    """The config files that a command line names."""
    return [value for key, value in command_line_options(arguments) if key in {"config", "c"}]


def _named(files: Sequence[Path]) -> str:
    return ", ".join(map(str, files))

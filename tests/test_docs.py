"""The documents name only files, links, modules, classes and command options that exist."""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import pkgutil
import re
from functools import cache
from pathlib import Path

import pytest
from lightning.pytorch import Trainer

from cv_lightning.__main__ import COMMANDS, main

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "sandbox/README.md")]
DOCUMENTS += sorted((ROOT / "docs").glob("*.md"))
HOUSES = ("cv_lightning", "modules", "callbacks", "sandbox")
SOURCES = [path for folder in (*HOUSES, "benchmarks") for path in (ROOT / folder).rglob("*.py")]

FILE = re.compile(
    rf"(?<![\w./~-])(?:{'|'.join((*HOUSES, 'benchmarks', 'docs', 'experiments', 'tests'))})/[\w./*<>${{}}-]*"
)
#: Placeholders that a reader fills in: `<stage>`, `$stage`, `STAGE`.
BLANK = re.compile(r"<\w+>|\$\{?\w+\}?|\b[A-Z]{2,}(?=/|\.yaml)")
DOTTED = re.compile(rf"(?<![\w./-])(?:{'|'.join(HOUSES)})(?:\.[A-Za-z_]\w*)+(?![\w/-])")
OPTION = re.compile(r"(?<![\w-])--[A-Za-z][\w.-]*")
COMMAND = re.compile(rf"(?:python -m cv_lightning +|^)({'|'.join(COMMANDS)})(?= )")
SCRIPT = re.compile(r"\b(benchmarks/\w+\.py)\b|python -m ([\w.]+)")

#: An old class_path, quoted from the error message that names the new one.
GONE = {"cv_lightning.data.world.PlateWorld"}

#: Commands that also take the keys of a config as options, and the other options of Lightning's command line.
WITH_CONFIG = ("fit", "validate", "test", "plan")
OF_LIGHTNING = {"--help", "--quiet", "--config", "--ckpt_path", "--print_config", "--model.help"}

#: Options of a vLLM server that somebody else starts.
OF_VLLM = {"--max-lora-rank", "--max-loras", "--max-cpu-loras"}


def code_of(text: str) -> list[str]:
    """The lines of code blocks, with continuation lines joined, and inline code."""
    fence = re.compile(r"^```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)
    lines = [line for block in fence.findall(text) for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
    return lines + [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", fence.sub("", text))]


CODE = {document: code_of(document.read_text(encoding="utf-8")) for document in DOCUMENTS}
of_each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())


@of_each_document
def test_files_exist(document: Path) -> None:
    named = {name.rstrip(".") for code in CODE[document] for name in FILE.findall(code)}
    assert not {name for name in named if not list(ROOT.glob(BLANK.sub("*", name).rstrip("/")))}


@of_each_document
def test_links_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8"))
    assert not [target for target in targets if not target.startswith("http") and not leads_somewhere(document, target)]


def leads_somewhere(document: Path, target: str) -> bool:
    file, _, heading = target.partition("#")
    path = document.parent / file if file else document
    return path.exists() and (not heading or heading in anchors(path))


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub generates them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@of_each_document
def test_modules_and_classes_exist(document: Path) -> None:
    named = {name for code in CODE[document] for name in DOTTED.findall(code)} - GONE
    assert not {name for name in named if not exists(name) and not name.endswith(".py")}


def exists(name: str) -> bool:
    """Whether a dotted name is a module or an attribute of one."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


@of_each_document
def test_options_exist(document: Path) -> None:
    parts = {part.strip() for code in CODE[document] for part in re.split(r"&&|;|\|", code.split(" # ")[0])}
    assert not {(part, name) for part in parts for name in unknown_options(part)}


def unknown_options(code: str) -> set[str]:
    """Options that do not exist, in one of our commands or scripts or in a bare list of options; else empty."""
    if (command := COMMAND.search(code)) is not None:
        named = set(OPTION.findall(code, command.end())) - options_of(command[1])
        return {name for name in named if command[1] not in WITH_CONFIG or not is_key(name)}
    if (script := SCRIPT.search(code)) is not None:
        file = ROOT / (script[1] or script[2].replace(".", "/") + ".py")
        return set(OPTION.findall(code, script.end())) - options_in(file) if file.is_file() else set()
    if not code.startswith("--"):
        return set()
    anywhere = OF_LIGHTNING.union(OF_VLLM, *map(options_of, COMMANDS), *map(options_in, SOURCES))
    return {name for name in set(OPTION.findall(code)) - anywhere if not is_key(name)}


@cache
def options_of(command: str) -> frozenset[str]:
    if COMMANDS[command][0].endswith("lightning_cli"):
        return frozenset(OF_LIGHTNING)
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        main([*command.split(), "--help"])
    return frozenset(OPTION.findall(text.getvalue())) | {"--quiet"}


@cache
def options_in(file: Path) -> frozenset[str]:
    return frozenset(re.findall(r"[\"'](--[a-z][\w-]*)", file.read_text(encoding="utf-8")))


def is_key(name: str) -> bool:
    """Whether each part of a config key is a parameter or a field of something, or a key in experiments/."""
    return keys().issuperset(name.removeprefix("--").split("."))


@cache
def keys() -> frozenset[str]:
    configs = [path.read_text(encoding="utf-8") for path in (ROOT / "experiments").rglob("*.yaml")]
    names = {key for config in configs for key in re.findall(r"(\w+):", config)} | set(
        inspect.signature(Trainer).parameters
    )
    for node in (node for path in SOURCES for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))):
        if isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return frozenset(names)


def test_faults_are_found() -> None:
    assert unknown_options("taskset -c 0 python -m cv_lightning chat --policy x --gone 3 --seed 1") == {"--gone"}
    assert unknown_options("torchrun --nnodes 2 -m cv_lightning.x") == set()
    assert unknown_options("fit --config a --model.policy.gone 1 --trainer.max_steps 1") == {"--model.policy.gone"}
    assert unknown_options("python benchmarks/turns.py --gone") == {"--gone"}
    assert unknown_options("--gone") == {"--gone"}
    assert exists("modules.policy.policy.Policy.forward")
    assert not exists("modules.policy.Gone")
    assert not exists("gone")
    assert code_of("a `b\nc` d\n```bash\ne \\\n  f\n```\n") == ["e  f", "b c"]
    assert FILE.findall("x tests/a_$b.py, ~/docs/c") == ["tests/a_$b.py"]
    assert BLANK.sub("*", "experiments/<stage>/$a/STAGE.yaml") == "experiments/*/*/*.yaml"

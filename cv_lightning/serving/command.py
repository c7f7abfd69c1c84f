"""`python -m cv_lightning serve`: a policy behind an OpenAI-compatible HTTP endpoint. See docs/serving.md."""

from __future__ import annotations

import argparse
import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from cv_lightning.endpoint.keys import read_key
from cv_lightning.errors import ConfigError, first_line
from cv_lightning.types import CODE_TOOL
from sandbox import ConfinementError, ToolExecutor
from sandbox.executor import LaneName

if TYPE_CHECKING:
    from modules.policy.policy import Policy

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    options = command_line(
        "serve",
        "Serve a policy at http://HOST:PORT/v1 as OpenAI-compatible servers do, images and tools included; or, with "
        "--mcp, the code tool alone.",
    )
    add = options.add_argument
    add(
        "--host", default="127.0.0.1", help="address to listen at; all but this machine's loopback addresses need a key"
    )
    add("--port", type=int, default=8000, help="0 takes a free one")
    add("--name", help="name of the model for clients (default: the folder's name and a digest of the weights)")
    add_policy_options(options, is_required=False)
    add(
        "--tools",
        choices=("client", "loop"),
        default="client",
        help="who runs the policy's calls: the client, or this server (loop), which then sends the final answer",
    )
    add("--max-turns", type=int, default=4, help="with --tools loop: turns of the policy for one request")
    add("--lane", choices=get_args(LaneName), default="auto", help="where code runs: see sandbox.ToolExecutor")
    add(
        "--mcp",
        nargs="?",
        choices=("stdio", "http"),
        const="stdio",
        help="serve the code tool as an MCP server: to "
        "the program that started this one (stdio), or at http://HOST:PORT/mcp",
    )
    add("--images", type=Path, help="with --mcp: folder whose images may be named by path; results are saved there")
    add("--max-batch", type=int, default=16, help="replies generated at the same time")
    add("--max-waiting", type=int, default=256, help="requests that may wait; more get 429")
    add("--max-request-mb", type=int, default=32, help="largest request in MB")
    add(
        "--api-key-variable", default="CV_LIGHTNING_API_KEY", help="environment variable with the key clients must send"
    )
    return options


def command_line(name: str, description: str) -> argparse.ArgumentParser:
    """A parser for the command `name` with default values in its help."""
    return argparse.ArgumentParser(
        prog=f"python -m cv_lightning {name}",
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )


def add_policy_options(options: argparse.ArgumentParser, is_required: bool = True) -> None:
    """Add the options that `load_policy` reads."""
    add = options.add_argument
    add("--policy", required=is_required, help="folder that a stage exported, or a hub name")
    add("--system-prompt", help="system turn (default: as the folder says, or else the one that describes the tool)")
    add("--min-pixels", type=int, help="smaller images are enlarged to this many (default: as the folder says)")
    add("--max-pixels", type=int, help="larger images are reduced to this many (default: as the folder says)")
    add("--max-context-tokens", type=int, default=32768, help="longest conversation")
    add("--max-new-tokens", type=int, default=1024, help="longest reply")
    add("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="dtype of the weights")
    add("--device", default="auto", help='as torch names it; "auto" takes an accelerator if there is one')
    add(
        "--engine",
        action="append",
        metavar="WHERE",
        help="let vLLM sample: the folder of its environment, to start it here, or the address of a running server; "
        "repeat it for each further address (docs/engines.md)",
    )


def main(arguments: Sequence[str]) -> int:
    """Serve until Ctrl-C.

    Raises:
        ConfigError: An option has a wrong value, the address is in use, or others can reach it and no key is set.
    """
    options = parser().parse_args(arguments)
    for name in ("max_context_tokens", "max_new_tokens", "max_turns", "max_batch", "max_waiting", "max_request_mb"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')}: expected at least 1, got {getattr(options, name)}")
    key = read_key(options.api_key_variable)
    if key is None and options.host not in _LOOPBACK:
        raise ConfigError(
            f"--host {options.host}: others can reach this address. Set the environment variable "
            f"{options.api_key_variable} to the key that clients must send."
        )
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")  # to standard error
    with contextlib.ExitStack() as stack:
        if options.mcp is not None:
            return _serve_tool(options, key, stack.enter_context(_executor(options)))
        if options.policy is None:
            raise ConfigError("--policy is missing: name a folder that a stage exported, or serve the tool with --mcp.")
        return _serve_policy(options, key, stack)


def _executor(options: argparse.Namespace) -> ToolExecutor:
    try:
        return ToolExecutor(lane=options.lane)
    except (ValueError, ConfinementError) as error:
        raise ConfigError(f"--lane {options.lane}: {error}") from error


def _serve_tool(options: argparse.Namespace, key: str | None, executor: ToolExecutor) -> int:
    from cv_lightning.serving.tool_server import CodeTool, ToolWebServer, serve_stdio
    from cv_lightning.serving.web_server import ServerLimits

    if options.images is not None and not options.images.is_dir():
        raise ConfigError(f"--images {options.images}: there is no such folder.")
    tool = CodeTool(executor, options.images, options.max_request_mb)
    if options.mcp == "stdio":
        serve_stdio(tool)
        return 0
    limits = ServerLimits(request_megabytes=options.max_request_mb)
    with _named_address(options):
        server = ToolWebServer(tool, options.host, options.port, key, limits)
    print(f"serving {CODE_TOOL} at {_address(options, server.port)}/mcp (Ctrl-C ends it)", flush=True)
    server.serve_until_interrupted()
    return 0


@contextlib.contextmanager
def _named_address(options: argparse.Namespace) -> Iterator[None]:
    try:
        yield
    except (OSError, OverflowError) as error:
        raise ConfigError(f"--host {options.host} --port {options.port}: cannot listen there ({error}).") from error


def _address(options: argparse.Namespace, port: int) -> str:
    host = f"[{options.host}]" if ":" in options.host else options.host
    return f"http://{host}:{port}"


def _serve_policy(options: argparse.Namespace, key: str | None, stack: contextlib.ExitStack) -> int:
    # Import torch, transformers and FastAPI only after the options have been checked.
    from cv_lightning.serving.engine_backend import EngineBackend
    from cv_lightning.serving.policy_backend import Batching, PolicyBackend
    from cv_lightning.serving.replies import Backend
    from cv_lightning.serving.server import ChatServer
    from cv_lightning.serving.tool_loop import ToolLoop
    from cv_lightning.serving.web_server import ServerLimits
    from modules.evaluate import weights_digest
    from modules.samplers.speaking import speaking

    policy = load_policy(options)
    loop = None
    if options.tools == "loop":
        loop = ToolLoop(stack.enter_context(_executor(options)), options.max_turns)
    name = options.name or f"{Path(options.policy).resolve().name}-{weights_digest(policy)[:8]}"
    backend: Backend
    if options.engine is not None:
        speaker = stack.enter_context(speaking(policy, options.engine))
        backend = EngineBackend(speaker, name, options.max_new_tokens, options.max_waiting)
    else:
        batching = Batching(options.max_batch, max_waiting=options.max_waiting)
        backend = PolicyBackend(policy, name, options.max_new_tokens, batching)
    limits = ServerLimits(request_megabytes=options.max_request_mb)
    stack.callback(backend.close)
    with _named_address(options):
        server = ChatServer(backend, options.host, options.port, key, limits, backend.close, loop)
    print(f"serving {name} at {_address(options, server.port)}/v1 (Ctrl-C ends it)", flush=True)
    server.serve_until_interrupted()
    return 0


def load_policy(options: argparse.Namespace) -> Policy:
    """Load a command line's policy in evaluation mode on its device; raises `CheckpointError` or `ConfigError`."""
    import torch

    from modules.policy.policy import Policy

    policy = Policy(
        source=options.policy,
        dtype=options.dtype,
        max_context_tokens=options.max_context_tokens,
        system_prompt=options.system_prompt,
        min_pixels=options.min_pixels,
        max_pixels=options.max_pixels,
    )
    device = options.device
    if device == "auto" and options.engine is not None:
        device = "cpu"  # it gives its weights to the engine, which uses the accelerator
    elif device == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        device = "cpu" if accelerator is None else accelerator.type
    try:
        return policy.to(device).eval()
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {device}: {first_line(error)}") from error

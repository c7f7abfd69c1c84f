"""`python -m cv_lightning plan`: memory and time of a training config, on the meta device. See docs/planning.md."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cv_lightning.console.command_parser import CommandParser
from cv_lightning.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from cv_lightning.planning.compute import Device
    from cv_lightning.planning.model_size import ModelSize
    from cv_lightning.planning.report import Plan
    from cv_lightning.planning.workload import Workload

#: Peak of an H100 SXM in bfloat16, used if neither the options nor the config give one.
_PEAK_TFLOPS = 989.0


def parser() -> CommandParser:
    """The options of the command; all others are those of `fit`."""
    options = CommandParser("plan", "Memory and time of a training config. It takes the options of `fit`, and:")
    add = options.add_argument
    add("--devices", type=int, help="devices of the run (default: trainer.devices)")
    add("--memory", type=float, default=80, help="memory of a device in GB (10^9 bytes; default: %(default)s)")
    add("--mfu", type=float, default=0.4, help="share of the peak FLOPs that is reached (default: %(default)s)")
    add("--peak-tflops", type=float, help="peak of a device (default: that of callbacks.Throughput, or an H100's)")
    add("--bandwidth", type=float, default=3.35, help="memory bandwidth in TB/s (default: %(default)s, an H100's)")
    add("--tokens", type=int, help="tokens of a sequence, at most max_context_tokens (the default)")
    add("--images", type=int, help="images of a sequence (default: one in each turn, as many as fit)")
    add("--json", action="store_true", help="print JSON")
    return options


@dataclass(frozen=True)
class Parsed:
    """The content of a config, as `fit` reads it.

    Attributes:
        model: `init_args` of the module.
        policy: `init_args` of its policy.
        data: `init_args` of the data module.
        trainer: Arguments of the trainer.
        memory_check: Action of `fit` if a step does not fit in memory.
    """

    model: dict[str, Any]
    policy: dict[str, Any]
    data: dict[str, Any]
    trainer: dict[str, Any]
    memory_check: str = "refuse"


def main(arguments: Sequence[str]) -> int:
    """Print the plan; 0 if it fits, else 1.

    Raises:
        ConfigError: `fit` would refuse the config, an option has a wrong value, or the config trains no policy.
        CheckpointError: The shapes of the model are unknown.
    """
    options, rest = parser().parse_known_args(list(arguments))
    for name in ("devices", "memory", "mfu", "peak_tflops", "bandwidth", "tokens", "images"):
        value = getattr(options, name)
        if value is not None and not 0 < value <= (1 if name == "mfu" else math.inf):
            limit = "more than 0 and at most 1" if name == "mfu" else "more than 0"
            raise ConfigError(f"--{name.replace('_', '-')}: expected {limit}, got {value}")
    from cv_lightning.planning.report import as_json, as_text

    result = plan(read(rest), rest, options)
    print(json.dumps(as_json(result), indent=1) if options.json else as_text(result))
    return 0 if result.fits else 1


def plan(parsed: Parsed, arguments: Sequence[str], options: argparse.Namespace) -> Plan:
    """Make the plan of a config that was read from `arguments`."""
    from cv_lightning.planning.report import make_plan

    size, origin = measured(parsed, arguments)
    work = workload(parsed, size, options)
    return make_plan(size, work, device(parsed, options), options.memory * 1e9, origin)


def check_before_fit(arguments: Sequence[str]) -> None:
    """Refuse a config that cannot fit this machine's GPUs, before anything is loaded; does nothing without a GPU.

    Args:
        arguments: The arguments of `fit`.

    Raises:
        ConfigError: A step needs more memory than a device has; the message says what to change.
    """
    n_bytes = device_memory()
    if n_bytes is None:
        return
    try:
        parsed = read(arguments)
    except ConfigError:  # `fit` reports it, or it trains something else
        return
    if parsed.memory_check == "off" or parsed.trainer.get("accelerator") == "cpu":
        return
    try:
        found = plan(parsed, arguments, parser().parse_args(["--memory", str(n_bytes / 1e9)]))
    except CheckpointError:  # shapes that are unknown before a download, or layers that are not counted
        return
    if not found.fits:
        raise ConfigError(
            f"memory: a step of this config takes up to {found.memory.peak / 1e9:.1f} GB on each device, and "
            f"{found.limit / 1e9:.1f} of {found.capacity / 1e9:.1f} GB can be used. {'; '.join(found.advice)}. "
            "See python -m cv_lightning plan. To train anyway: --memory_check off."
        )


def device_memory() -> float | None:
    """Memory in bytes of the smallest GPU that this process sees; None without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return None
    return float(min(torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())))


def read(arguments: Sequence[str]) -> Parsed:
    """Read a config as `fit` does, but build nothing; raises `ConfigError` as `fit` does, or if it has no policy."""
    from cv_lightning.cli.compose import config_files
    from cv_lightning.cli.lightning_cli import ConfigReader, run_command

    if not arguments or not config_files(arguments):
        raise ConfigError("--config: expected a file, got none. See python -m cv_lightning plan --help.")
    config = run_command(["fit", *arguments], ConfigReader).config["fit"].as_dict()
    model = config["model"]["init_args"]
    policy = model.get("policy") or {}
    if "init_args" not in policy:
        raise ConfigError(f"model: expected a module with a policy, got {config['model']['class_path']}.")
    data = (config.get("data") or {}).get("init_args", {})
    return Parsed(model, policy["init_args"], data, config["trainer"], config["memory_check"])


# ---- the model -------------------------------------------------------------------------------------------------------


def measured(parsed: Parsed, arguments: Sequence[str]) -> tuple[ModelSize, str]:
    """The size of a config's model, and a text that says where its shapes come from."""
    from cv_lightning.planning.model_size import measure
    from modules.policy.outline import outline
    from modules.policy.quantized import BYTES_PER_WEIGHT
    from modules.policy.tiny import TinyConfig

    start, exporters = starting_point(parsed.policy, arguments)
    build = start["build"]
    given = {**parsed.policy, "source": start["source"], "build": None if build is None else TinyConfig(**build)}
    made = outline(**given)
    origin = "".join(f"{path} (does not exist yet; {config} exports it); " for path, config in exporters)
    of_optimizer = _optimizer_bytes(made.model, parsed)
    of_quantized = BYTES_PER_WEIGHT if parsed.policy.get("quantization") else None
    size = measure(made.model, made.config, made.dtype.itemsize, made.is_lora, of_optimizer, of_quantized)
    return size, f"{origin}{made.origin}"


def starting_point(policy: Mapping[str, Any], arguments: Sequence[str]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The `source` and `build` that define a policy's shapes; if the source does not exist yet, its exporter's.

    Returns:
        Both values, and for each folder that does not exist yet the config, among those in the same folders as the
        given ones, whose stage exports it.
    """
    from modules.policy.pretrained import looks_local

    start = {"source": policy.get("source"), "build": policy.get("build")}
    found: list[tuple[str, str]] = []
    while (source := start["source"]) is not None and looks_local(source) and not Path(source).exists():
        exporter = next((each for each in _neighbors(arguments) if each[1] == str(Path(source))), None)
        if exporter is None or any(path == source for path, _ in found):
            break
        file, _, stage = exporter
        found.append((source, file))
        start = {"source": stage.get("source"), "build": stage.get("build")}
    return start, found


def _neighbors(arguments: Sequence[str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Configs in the folders of the given ones: file, folder of the exported policy, arguments of the policy."""
    from cv_lightning.cli.compose import command_line_options, compose, config_files, find_file

    overrides = {key: value for key, value in command_line_options(arguments) if key == "run_folder"}
    for folder in dict.fromkeys(find_file(Path(file)).parent for file in config_files(arguments)):
        for file in sorted(folder.glob("*.yaml")):
            try:
                config = compose([file], overrides)
                exported = Path(config["trainer"]["default_root_dir"]) / "policy"
                yield file.name, str(exported), config["model"]["init_args"]["policy"]["init_args"]
            except (ConfigError, LookupError, TypeError):  # blocks that complete other configs
                continue


def _optimizer_bytes(model: Any, parsed: Parsed) -> int:
    """Bytes of the optimizer's state after the first step of `fit`, which is run on the meta device."""
    import torch

    from modules.optimizer import OptimizerConfig, make_optimizer

    optimizer, _ = make_optimizer(model, OptimizerConfig(**(parsed.model.get("optimizer") or {})), 1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    optimizers = getattr(optimizer, "parts", [optimizer])
    tensors = (value for part in optimizers for state in part.state.values() for value in state.values())
    return sum(value.numel() * value.element_size() for value in tensors if isinstance(value, torch.Tensor))


# ---- the work --------------------------------------------------------------------------------------------------------


def workload(parsed: Parsed, size: ModelSize, options: argparse.Namespace) -> Workload:
    """The work of one training step on a device, from the config."""
    from cv_lightning.planning.workload import Workload, patches_of_image
    from modules.policy.pretrained import pixel_bounds

    model, policy = parsed.model, parsed.policy
    rollout, gradient = model.get("rollout") or {}, model.get("policy_gradient") or {}
    group_size = model.get("group_size", 0)
    devices = options.devices or _number(parsed.trainer.get("devices")) * parsed.trainer.get("num_nodes", 1)
    epochs = model.get("epochs", 1)
    strategy = parsed.trainer.get("strategy", "auto")
    tokens = min(options.tokens or policy["max_context_tokens"], policy["max_context_tokens"])
    turns = rollout.get("max_turns", 4)
    steps = parsed.trainer.get("max_steps", -1)
    _, max_pixels = pixel_bounds(policy["source"], policy["min_pixels"], policy["max_pixels"])
    work = Workload(
        devices=devices,
        strategy=_name(strategy),
        shards=devices if _name(strategy) == "ShardedStrategy" else 1,
        has_replica=bool(group_size) and _name(model.get("sampler")) == "Replica",
        keeps_whole_gradients=not _options(strategy).get("reduce_each_micro_batch", False),
        batch_size=parsed.data.get("batch_size", 64),
        group_size=group_size,
        sequences_at_once=rollout.get("sequences_at_once", 0),
        micro_batch_tokens=model.get("micro_batch_tokens", 0),
        epochs=epochs,
        optimizer_steps=epochs * model.get("minibatches", 1),
        has_reference=bool(group_size and (gradient.get("kl_coefficient", 0.001) or model.get("measure_kl_every"))),
        gradient_checkpointing=policy["gradient_checkpointing"],
        tokens=tokens,
        sampled=turns * rollout.get("max_new_tokens", 1024),
        images=options.images or turns,
        patches=patches_of_image(_source(parsed.data), max_pixels, size),
        max_steps=steps if steps and steps > 0 else None,
        optimizer=(model.get("optimizer") or {}).get("name", "adamw"),
        has_accelerator=parsed.trainer.get("accelerator") != "cpu",
        engine_bytes=_engine_bytes(model.get("sampler"), parsed.trainer.get("devices"), options.memory),
    )
    return work.with_tokens(tokens, size)


def _engine_bytes(sampler: Any, devices: Any, memory_gb: float) -> int | None:
    """Bytes that an engine uses during rollouts on each device of the trainer; None if no engine samples."""
    if _name(sampler) != "VLLM":
        return None
    launch = _options(sampler).get("launch") or {}
    trains = set(devices) if isinstance(devices, list) else set(range(_number(devices)))
    is_beside = not launch or (launch.get("devices") is not None and not trains & set(launch["devices"]))
    return 0 if is_beside else int(launch.get("memory", 0.9) * memory_gb * 1e9)


def _number(devices: Any) -> int:
    """Number of devices of a trainer's argument; "auto" and -1 count as one."""
    if isinstance(devices, list):
        return len(devices)
    return max(1, int(devices)) if str(devices).lstrip("-").isdigit() else 1


def _name(given: Any) -> str:
    """Name of a class that is given by name or by class_path."""
    return str(given["class_path"].rpartition(".")[2] if isinstance(given, dict) else given)


def _options(given: Any) -> dict[str, Any]:
    """`init_args` of a class; none if it is given by name."""
    return (given.get("init_args") or {}) if isinstance(given, dict) else {}


def _source(data: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the source of the training data."""
    builder = data.get("builder") or {}
    for holder in (data, builder, builder.get("init_args") or {}):
        if isinstance(source := holder.get("source"), dict):
            return dict(source.get("init_args") or {})
    return {}


def device(parsed: Parsed, options: argparse.Namespace) -> Device:
    """The speed of the device: from the options, else from the config's `Throughput`, else that of an H100."""
    from cv_lightning.planning.compute import Device

    stated = [
        each["init_args"].get("peak_tflops")
        for each in parsed.trainer.get("callbacks") or []
        if isinstance(each, dict) and each.get("class_path", "").endswith("Throughput")
    ]
    tflops = options.peak_tflops or next(filter(None, stated), _PEAK_TFLOPS)
    return Device(tflops * 1e12, options.bandwidth * 1e12, options.mfu)

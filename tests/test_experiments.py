"""Every config under experiments/ runs through the real command line, with a tiny model and two training steps."""

from __future__ import annotations

import json
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf
from PIL import Image

from cv_lightning.__main__ import main
from cv_lightning.cli.compose import compose
from cv_lightning.cli.lightning_cli import run_command
from cv_lightning.cli.recipe import load_recipe
from cv_lightning.conversation import format_answer, format_call
from cv_lightning.rewards import TERMS, RewardConfig
from cv_lightning.serving.policy_backend import PolicyBackend
from cv_lightning.serving.server import ChatServer
from cv_lightning.types import ToolCall
from modules.policy.policy import Policy
from modules.policy.tiny import TinyConfig
from modules.samplers.vllm.launch import Launch
from tests.modules.samplers.vllm.helpers import fake_environment, pids_of

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "experiments"
RECIPES = sorted(EXPERIMENTS.glob("*/recipe.yaml"))
#: Configs that only test: they train nothing.
EVALUATIONS = [EXPERIMENTS / "robustness.yaml"]
#: Configs that test a model behind a server.
OF_SERVERS = [EXPERIMENTS / "robustness_endpoint.yaml"]
#: Configs that test an OCR engine, which an optional extra installs.
OF_OCR = [EXPERIMENTS / "robustness_ocr.yaml"]
#: Published data, passed after a training config.
PUBLISHED = sorted((EXPERIMENTS / "codevision").glob("*.yaml"))
#: Named tools instead of code, passed after a training config that uses the oracle's episodes.
NAMED_TOOLS = EXPERIMENTS / "named_tools" / "sft.yaml"
#: Arms of the paper in miniature; their recipe runs them.
ARMS = sorted(set((EXPERIMENTS / "paper").glob("*.yaml")) - set(RECIPES) - {EXPERIMENTS / "paper" / "shared.yaml"})
#: Configs of `data build`.
BUILDS = sorted(EXPERIMENTS.glob("build_*.yaml"))
#: Files that other configs include; they run nothing on their own.
INCLUDED = [
    *(EXPERIMENTS / "shared").glob("*.yaml"),
    *EXPERIMENTS.glob("*/shared.yaml"),
    *EXPERIMENTS.glob("published/*.yaml"),
    *EXPERIMENTS.glob("lora/*.yaml"),
    *EXPERIMENTS.glob("engine/*.yaml"),
    EXPERIMENTS / "sharded.yaml",
]
#: Samples through an engine, which needs its own environment.
WITH_ENGINE = EXPERIMENTS / "tiny" / "rl_engine.yaml"
OF_COMMANDS = {*RECIPES, *ARMS, *EVALUATIONS, *OF_SERVERS, *OF_OCR, *PUBLISHED, *BUILDS, NAMED_TOOLS}
OTHERS = {*OF_COMMANDS, *INCLUDED, WITH_ENGINE}
CONFIGS = sorted(set(EXPERIMENTS.rglob("*.yaml")) - OTHERS)

SIZE = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "layers": 1,
    "heads": 2,
    "kv_heads": 1,
    "vision_hidden_size": 32,
    "vision_intermediate_size": 32,
    "vision_layers": 1,
    "vision_heads": 2,
}

ONE_PROCESS = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.strategy=auto", "--trainer.max_steps=2"]

POLICY = "model.init_args.policy.init_args"


def name_of(path: Path) -> str:
    return path.relative_to(EXPERIMENTS).as_posix()


def composed(*paths: Path) -> Any:
    """The composed config of several files, with its keys as attributes."""
    return OmegaConf.create(compose(paths))


def shrunk(config: Any) -> list[str]:
    """Overrides that keep a config's structure but need little compute."""
    rollout = "model.init_args.rollout"
    values: dict[str, Any] = {f"{rollout}.max_new_tokens": 4, f"{rollout}.max_turns": 2}
    if OmegaConf.select(config, f"{POLICY}.build") is not None:
        values |= {f"{POLICY}.build.{key}": value for key, value in SIZE.items()}
    if "group_size" in config.model.init_args:
        values["model.init_args.group_size"] = 2
    data = "data.init_args"
    values |= {f"{data}.batch_size": 2, f"{data}.eval_batch_size": 6, f"{data}.n_test_per_orientation": 1}
    values[f"{data}.n_validation_per_orientation"] = 1
    return [f"--{key}={value}" for key, value in values.items()]


def small_world(config: Any) -> list[str]:
    """Overrides that make a config's procedural world small."""
    world = "builder.init_args.source" if "builder" in config.data.init_args else "source"
    return [f"--data.init_args.{world}.init_args.{side}=84" for side in ("width", "height")]


@pytest.fixture(scope="session")
def small_policies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One exported policy per family, in place of hub models."""
    folders = {}
    for family in ("qwen2_5_vl", "qwen3_vl", "thinking"):
        folders[family] = tmp_path_factory.mktemp(family)
        is_thinking = family == "thinking"
        size = TinyConfig(family="qwen3_vl" if is_thinking else family, **SIZE)
        Policy(build=size, open_reasoning=is_thinking).export(folders[family])
    return folders


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_config_trains_and_tests(
    path: Path, small_policies: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = composed(path)
    arguments = ["--config", str(path), "--run_folder=runs/small", *ONE_PROCESS, *shrunk(config), *small_world(config)]
    if OmegaConf.select(config, f"{POLICY}.source") is not None:
        family = "qwen3_vl" if "qwen3" in path.parent.name else "qwen2_5_vl"
        family = "thinking" if path.parent.name.endswith("thinking") else family
        arguments.append(f"--{POLICY}.source={small_policies[family]}")
    cli = run_command(["fit", *arguments])
    assert cli.trainer.global_step == 2
    opens = path.parent.name.endswith("thinking")
    assert cli.model.policy.conversation.reply_start == ("<think>\n" if opens else "")
    cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    metrics = {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
    assert 0 <= metrics["test/accuracy/upright"] <= 1
    assert {path.name for path in tmp_path.iterdir()} <= {"runs"}, "a run writes below its run folder only"


def test_config_trains_and_tests_with_an_engine(
    small_policies: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    engine = fake_environment(tmp_path / "runs" / "environment")
    arguments = ["--config", str(WITH_ENGINE), "--run_folder=runs/small", *ONE_PROCESS, *shrunk(composed(WITH_ENGINE))]
    arguments += [f"--{POLICY}.source={small_policies['qwen2_5_vl']}", f"--settings.engine={engine}"]
    cli = run_command(["fit", *arguments])
    assert cli.trainer.global_step == 2
    cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    assert 0 <= float(cli.trainer.callback_metrics["test/accuracy/upright"]) <= 1
    assert (tmp_path / "runs/small/rl_engine/engine/server-0.log").exists()
    assert not pids_of(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


@pytest.mark.parametrize("block", ["beside", "colocated"])
@pytest.mark.parametrize("model", ["qwen2_5_vl_7b", "qwen3_vl_8b"])
def test_engine_blocks_complete_the_configs_of_large_models(model: str, block: str) -> None:
    config = composed(EXPERIMENTS / model / "rl.yaml", EXPERIMENTS / "engine" / f"{block}.yaml")
    sampler = config.model.init_args.sampler
    launch = Launch(**OmegaConf.to_container(sampler.init_args.launch, resolve=True))
    assert sampler.class_path == "modules.samplers.VLLM"
    trains = config.trainer.devices
    shared = set(range(trains) if isinstance(trains, int) else trains) & set(launch.devices or ())
    assert len(shared) == (8 if block == "colocated" else 0)
    assert launch.devices_of_server == 1


@pytest.mark.parametrize("stage", ["sft", "rl"])
def test_adapters_over_four_bits_train_and_test(
    stage: str, small_policies: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes", reason="the extra qlora")
    monkeypatch.chdir(tmp_path)
    path = EXPERIMENTS / "qwen3_vl_8b" / f"{stage}.yaml"
    config = composed(path, EXPERIMENTS / "lora" / "24gb.yaml")
    arguments = ["--config", str(path), "--config", str(EXPERIMENTS / "lora" / "24gb.yaml"), "--run_folder=runs/small"]
    arguments += [*ONE_PROCESS, *shrunk(config), *small_world(config)]
    cli = run_command(["fit", *arguments, f"--{POLICY}.source={small_policies['qwen3_vl']}"])
    assert cli.trainer.global_step == 2
    assert cli.model.policy.causal.is_loaded_in_4bit
    trained = [name for name, parameter in cli.model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora_" in name and "language_model" in name for name in trained)
    cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    exported = Policy(f"runs/small/{stage}/policy")
    assert not exported.is_lora


def test_named_tools_from_nothing_to_rewards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for stage in ("base", "sft", "rl"):
        path = EXPERIMENTS / "tiny" / f"{stage}.yaml"
        config = composed(path)
        overlay = [] if stage == "rl" else ["--config", str(NAMED_TOOLS)]
        arguments = ["--config", str(path), *overlay, "--run_folder=runs/small", *ONE_PROCESS, *shrunk(config)]
        cli = run_command(["fit", *arguments, *small_world(config)])
        assert cli.trainer.global_step == 2
        assert cli.model.policy.conversation.toolbox.kind == "named"
    says = json.loads((tmp_path / "runs/small/rl/policy/conversation.json").read_text(encoding="utf-8"))
    assert says["toolbox"]["kind"] == "named"
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Small files in the schemas of the published data, under the names that the configs give them."""
    folder = tmp_path / "data"
    for name in ("codevision_rl", "mvtoolbench"):
        (folder / name).mkdir(parents=True)
    images = []
    for index in range(4):
        Image.fromarray(np.random.default_rng(index).integers(0, 256, (56, 84, 3), dtype=np.uint8)).save(
            folder / f"{index}.png"
        )
        images.append(f"{index}.png")
    call = format_call("It is turned.", ToolCall("result = image.rotate(180)"))
    turns = [("human", "<image>What is written?"), ("gpt", call), ("tool", "<tool_response>\n<image></tool_response>")]
    turns.append(("gpt", format_answer("Now I can read it.", "EXIT")))
    conversation = [{"from": role, "value": text} for role, text in turns]
    episodes = [{"conversations": conversation, "images": images[start : start + 2]} for start in (0, 2)]
    (folder / "codevision_sft.json").write_text(json.dumps(episodes))
    questions = [
        {
            "prompt": [{"role": "user", "content": "<image>\nWhat is written?"}],
            "images": [{"bytes": (folder / name).read_bytes(), "path": None}],
            "data_source": "codevision",
            "reward_model": {"ground_truth": "EXIT"},
            "extra_info": {
                "answer": "EXIT",
                "bbox": [4, 5, 12, 9],
                "index": index,
                "transform": ["crop", "rotate_180"],
            },
        }
        for index, name in enumerate(images)
    ]
    for name in ("codevision_rl", "mvtoolbench"):
        pq.write_table(pa.Table.from_pylist(questions), folder / name / "part-0.parquet")
    return folder


@pytest.mark.parametrize("family", ["qwen2_5_vl_7b", "qwen3_vl_8b"])
@pytest.mark.parametrize("path", PUBLISHED, ids=name_of)
def test_config_trains_on_published_data(
    path: Path, family: str, published: Path, small_policies: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(published.parent)
    under = EXPERIMENTS / family / path.name
    policy = small_policies[family.rpartition("_")[0]]
    arguments = ["--config", str(under), "--config", str(path), f"--{POLICY}.source={policy}"]
    cli = run_command(["fit", *arguments, "--run_folder=runs/small", *ONE_PROCESS, *shrunk(composed(under))])
    assert cli.trainer.global_step == 2
    if path.stem == "rl":
        cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
        assert 0 <= float(cli.trainer.callback_metrics["test/accuracy/mean"]) <= 1


@pytest.mark.parametrize("path", BUILDS, ids=name_of)
def test_build_makes_files_without_faults(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", "build", "--config", str(path), "--n=6", "--workers=1"]) == 0
    assert main(["data", "check", f"data/{path.stem.replace('build', 'built')}"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"data"}


@pytest.mark.parametrize("path", EVALUATIONS, ids=name_of)
def test_evaluation_tests(
    path: Path, small_policies: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    solver = "model.init_args.solver.init_args"
    values: dict[str, Any] = {
        f"{solver}.policy.init_args.source": small_policies["qwen2_5_vl"],
        f"{solver}.rollout.max_new_tokens": 4,
        "data.init_args.n_questions": 2,
        "data.init_args.corruptions": "[jpeg]",
        "data.init_args.severities": "[1, 5]",
    }
    cli = run_command(["test", "--config", str(path), *(f"--{key}={value}" for key, value in values.items())])
    metrics = {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
    assert 0 <= metrics["test/accuracy/upright"] <= 1
    assert metrics["test/n/jpeg_5"] == 2
    assert {path.name for path in tmp_path.iterdir()} <= {"runs"}, "a run writes below its run folder only"


@pytest.mark.parametrize("path", OF_SERVERS, ids=name_of)
def test_evaluation_of_a_server_tests(
    path: Path, small_policies: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    policy = Policy(str(small_policies["qwen2_5_vl"]), max_pixels=7056, system_prompt="Read.").eval()
    backend = PolicyBackend(policy, "gpt-4o")
    server = ChatServer(backend, port=0, on_stop=backend.close)
    threading.Thread(target=server.serve, daemon=True).start()
    solver = "model.init_args.solver.init_args"
    values: dict[str, Any] = {
        f"{solver}.endpoint.url": f"http://127.0.0.1:{server.port}/v1",
        f"{solver}.max_new_tokens": 4,
        "data.init_args.n_questions": 2,
    }
    command = ["test", "--config", str(path), *(f"--{key}={value}" for key, value in values.items())]
    metrics = {name: float(value) for name, value in run_command(command).trainer.callback_metrics.items()}
    server.stop()
    assert 0 <= metrics["test/accuracy/upright"] <= 1
    assert metrics["test/n/vflip"] == 2
    assert metrics["test/usage/requests"] == 12
    n_tokens = [metrics[f"test/usage/{name}_tokens"] for name in ("input", "output")]
    assert metrics["test/usage/cost"] == pytest.approx((2.5 * n_tokens[0] + 10 * n_tokens[1]) / 1e6, rel=1e-4)
    assert {path.name for path in tmp_path.iterdir()} <= {"runs"}, "a run writes below its run folder only"


@pytest.mark.skipif(find_spec("rapidocr") is None, reason="needs pip install -e '.[ocr]'")
@pytest.mark.parametrize("path", OF_OCR, ids=name_of)
def test_evaluation_of_an_ocr_tests(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    solver = "model.init_args.solver.init_args"
    values = {f"{solver}.mirrors": "true", "data.init_args.n_questions": 2}
    cli = run_command(["test", "--config", str(path), *(f"--{key}={value}" for key, value in values.items())])
    metrics = {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
    assert metrics["test/accuracy/upright"] == metrics["test/accuracy/hflip"] == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"runs"}, "a run writes below its run folder only"


def test_a_config_serves_validate_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = EXPERIMENTS / "tiny" / "base.yaml"
    limit = "--trainer.limit_val_batches=1"
    cli = run_command(["validate", "--config", str(path), *ONE_PROCESS, *shrunk(composed(path)), limit])
    assert 0 <= float(cli.trainer.callback_metrics["val/accuracy/upright"]) <= 1


def differing(one: Any, other: Any, at: str = "") -> set[str]:
    """The dotted keys at which two configs differ."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return set() if one == other else {at}
    return {key for name in {*one, *other} for key in differing(one.get(name), other.get(name), f"{at}.{name}")}


_PLACES = {".trainer.default_root_dir", ".trainer.logger", ".trainer.callbacks"}
_REWARD = ".model.init_args.reward"
_POLICY = f".{POLICY}"
_PAID = {name for name in TERMS if getattr(RewardConfig(), name)}


@pytest.mark.parametrize(
    ("arm", "changed"),
    [
        ("rl_outcome_only", {f"{_REWARD}.{name}" for name in _PAID - {"accuracy"}}),
        ("rl_no_strategy", {f"{_REWARD}.mandatory", f"{_REWARD}.exact"}),
        ("rl_no_penalties", {f"{_REWARD}.usage", f"{_REWARD}.spurious"}),
        ("rl_without_sft", {f"{_POLICY}.source"}),
        ("rl_published", {f"{_REWARD}.preset", f"{_REWARD}.manner_in"}),
        ("rl_call_temperature", {".model.init_args.rollout.call_temperature"}),
        (
            "rl_oversample",
            {
                ".model.init_args.keep_prompts",
                f"{_REWARD}.interaction",
                ".data.init_args.batch_size",
                ".trainer.max_steps",
            },
        ),
        ("rl_named_tools", {f"{_POLICY}.source", f"{_POLICY}.toolbox.class_path"}),
    ],
)
def test_an_arm_changes_what_its_name_says_and_nothing_else(arm: str, changed: set[str]) -> None:
    full, other = (compose([EXPERIMENTS / "paper" / f"{name}.yaml"]) for name in ("rl", arm))
    assert differing(full, other) - _PLACES == changed


@pytest.mark.slow
def test_the_paper_in_miniature_judges_its_claims_and_names_what_it_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(EXPERIMENTS / "paper" / "recipe.yaml")
    overrides = [
        f"{stage.name}:{override.removeprefix('--')}"
        for stage in recipe.stages
        for override in [*ONE_PROCESS, *shrunk(composed(*stage.configs)), "--data.init_args.n_test_per_orientation=14"]
    ]
    overrides.append("rl_oversample:model.init_args.keep_prompts=1")  # of a batch of two
    command = ["reproduce", "--recipe", str(recipe.path), "--overrides", *overrides]
    assert main(command) == 0
    report = json.loads(Path("runs/paper/report.json").read_text(encoding="utf-8"))
    assert set(report["stages"]) == {stage.name for stage in recipe.stages}
    assert all(entry["peak_memory_mb"] < 3000 for entry in report["stages"].values())
    judged = {claim["name"]: claim for claim in report["claims"]}
    assert judged["brittleness"]["reason"].startswith("base, upright plates (read) (only 2 answers)")
    assert judged["the strategy terms teach"]["verdict"] == "not reproduced"  # after two steps
    assert "not reproduced" in Path("runs/paper/report.html").read_text(encoding="utf-8")
    capfd.readouterr()
    assert main([*command, "rl_published:model.init_args.group_size=3", "--stages", "rl"]) == 0
    judged = {claim["name"]: claim for claim in json.loads(Path("runs/paper/report.json").read_text())["claims"]}
    assert judged["the released reward is hackable"]["reason"].startswith("rl_published: its config, an override")
    assert capfd.readouterr().out.count("already finished") == 4


@pytest.mark.parametrize("path", [path for path in RECIPES if not load_recipe(path).has_claims], ids=name_of)
def test_recipe_runs_from_nothing_to_a_report(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(path)
    overrides = [
        f"{stage.name}:{override.removeprefix('--')}"
        for stage in recipe.stages
        for override in [*ONE_PROCESS, *shrunk(composed(*stage.configs))]
    ]
    command = ["reproduce", "--recipe", str(path), "--overrides", *overrides]
    command += ["--stages", *(stage.name for stage in recipe.stages)]
    assert main(command) == 0
    report = json.loads((recipe.run_folder / "report.json").read_text(encoding="utf-8"))
    assert list(report["stages"]) == [stage.name for stage in recipe.stages]
    for entry in report["stages"].values():
        assert set(entry["accuracy"]) == {"upright", "rot90", "rot180", "rot270", "hflip", "vflip"}
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}
    capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr().out.count("already finished") == len(recipe.stages)

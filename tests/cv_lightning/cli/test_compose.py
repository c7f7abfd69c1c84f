"""Configs of several files: overrides, additions, `${...}` interpolation, and the error of each mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cv_lightning.cli.compose import ROOT, compose, compose_command_line, find_file, merged
from cv_lightning.errors import ConfigError


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_file_replaces_what_it_includes_and_settings_are_left_out(write: Any) -> None:
    write("shared/a.yaml", "folder: ${run}/${settings.stage}\nsettings: {stage: none, size: 1}\ntrainer: {x: 1, y: 2}")
    write("shared/b.yaml", "include: a.yaml\ntrainer: {z: '${settings.size}'}")
    path = write("own/c.yaml", "include: [../shared/b.yaml]\nrun: runs\nsettings: {stage: sft}\ntrainer: {y: 3}")
    assert compose([path]) == {"folder": "runs/sft", "trainer": {"x": 1, "y": 3, "z": 1}, "run": "runs"}
    assert compose([path], {"settings.stage": "rl", "run": "/x", "absent": 1})["folder"] == "/x/rl"


def test_a_plus_adds_to_a_list_and_a_name_alone_replaces_it(write: Any) -> None:
    write("a.yaml", "t: {callbacks: [{class_path: A}]}")
    more, other = (
        write("b.yaml", "include: a.yaml\nt: {callbacks+: [{class_path: B}]}"),
        write("c.yaml", "t: {callbacks: []}"),
    )
    assert compose([more]) == {"t": {"callbacks": [{"class_path": "A"}, {"class_path": "B"}]}}
    assert compose([more, other]) == {"t": {"callbacks": []}}


@pytest.mark.parametrize("added", ["d", "[d]"])
def test_one_item_may_be_added_to_a_list(added: str, write: Any) -> None:
    write("a.yaml", "include: null\nt: [b]")
    assert compose([write("b.yaml", f"include: a.yaml\nt+: {added}")]) == {"t": ["b", "d"]}


def test_another_class_starts_without_the_old_arguments(write: Any) -> None:
    a, same = write("a.yaml", "m: {class_path: A, init_args: {x: 1}}"), write("b.yaml", "m: {init_args: {y: 2}}")
    other = write("c.yaml", "m: {class_path: B, init_args: {y: 2}}")
    assert compose([a, same]) == {"m": {"class_path": "A", "init_args": {"x": 1, "y": 2}}}
    assert compose([a, other]) == {"m": {"class_path": "B", "init_args": {"y": 2}}}


def test_interpolation_sees_every_file(write: Any) -> None:
    a, b = write("a.yaml", "x: ${y}"), write("b.yaml", "y: 3")
    assert compose([a, b]) == {"x": 3, "y": 3}


values = st.recursive(
    st.integers() | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@given(values, values)
def test_a_config_on_itself_is_itself_and_what_is_on_top_stays(base: Any, top: Any) -> None:
    result = merged({"key": base}, {"key": top})
    assert merged(result, result) == result
    assert merged(result, {"key": top}) == result
    if isinstance(base, dict) and isinstance(top, dict):
        assert set(result["key"]) == {*base, *top}
    else:
        assert result == {"key": top}


def test_options_of_the_files_are_set_before_interpolation_and_others_are_handed_on(write: Any) -> None:
    write("a.yaml", "run_folder: r\nmodel: {class_path: M, init_args: {p: {class_path: P}}}\nt: {d: '${run_folder}/x'}")
    command = [
        "fit",
        "--config",
        "a.yaml",
        "--run_folder=s",
        "--model.lr",
        "0.5",
        "--model.p.width=3",
        "--ckpt_path",
        "c",
    ]
    rest, config = compose_command_line(command)
    assert rest == ["fit", "--ckpt_path", "c"]
    assert config["t"] == {"d": "s/x"}
    assert config["model"]["init_args"] == {"p": {"class_path": "P", "init_args": {"width": 3}}, "lr": 0.5}
    rest, _ = compose_command_line(["fit", "--config=a.yaml", "--model.help", "M", "--model.class_path=N"])
    assert rest == ["fit", "--model.help", "M", "--model.class_path=N"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("include: shraed.yaml", ["include: there is no file 'shraed.yaml'", "'shared.yaml'"]),
        ("include: a.yaml", ["includes itself"]),
        ("x: ${settings.stge}", ["${settings.stge}", "no key"]),
        ("x: [1\n y: }", ["a.yaml: cannot be read as YAML"]),
        ("[1, 2]", ["a.yaml: expected a mapping, got list"]),
    ],
)
def test_each_mistake_is_named(text: str, words: list[str], write: Any) -> None:
    write("shared.yaml", "y: 1")
    path = write("a.yaml", text)
    with pytest.raises(ConfigError) as error:
        compose([path])
    assert [word for word in words if word not in str(error.value)] == [], error.value


def test_a_value_that_must_be_set_is_named(write: Any) -> None:
    path = write("a.yaml", "settings: {stage: '???'}\nx: ${settings.stage}")
    with pytest.raises(ConfigError, match=r"settings\.stage"):
        compose([path])


def test_shipped_files_are_found_from_anywhere(write: Any) -> None:
    assert find_file(Path("experiments/tiny/base.yaml")) == ROOT / "experiments/tiny/base.yaml"


def test_the_models_of_the_paper_differ_only_where_the_models_do() -> None:
    for stage in ("sft", "rl"):
        one, other = (compose([Path(f"experiments/{name}/{stage}.yaml")]) for name in ("qwen2_5_vl_7b", "qwen3_vl_8b"))
        if stage == "rl":  # patches (14 and 16 pixels) and KV caches differ in size
            policy = one["model"]["init_args"]["policy"]["init_args"]
            policy["max_pixels"] = policy["max_pixels"] // (28 * 28) * 32 * 32
            one["model"]["init_args"]["rollout"]["sequences_at_once"] //= 2
        text = yaml.safe_dump(one).replace("qwen2_5_vl_7b", "qwen3_vl_8b")
        assert text.replace("Qwen2.5-VL-7B-Instruct", "Qwen3-VL-8B-Instruct") == yaml.safe_dump(other)

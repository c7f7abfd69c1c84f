"""Invalid options of `chat` are named before anything is loaded; equal questions get equal answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from cv_lightning.chat.command import main
from cv_lightning.errors import ConfigError, CVLightningError
from tests.modules.helpers import noise, small_policy

POLICY = ["--policy", "nowhere"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-turns", "0"], "--max-turns: expected at least 1, got 0"),
        (["--max-new-tokens", "-3"], "--max-new-tokens: expected at least 1, got -3"),
        (["--max-context-tokens", "0"], "--max-context-tokens: expected at least 1"),
        (["--temperature", "-0.1"], "--temperature: expected a number from 0 to 100, got -0.1"),
        (["--temperature", "nan"], "--temperature: expected a number from 0 to 100, got nan"),
        (["--seed", str(1 << 63)], "--seed: expected a signed 64-bit number"),
        ([" \n", "--image", "x.png"], "The question is empty"),
        (["What?"], "--image is missing"),
        (["--serve", "What?"], "--serve takes questions and images in the browser"),
        (["--serve", "--image", "x.png"], "--serve takes questions and images in the browser"),
        (["--serve", "--interactive"], "--serve takes questions and images in the browser"),
        (["--serve", "--port", "65536"], "--port: expected a number from 0 to 65535, got 65536"),
    ],
)
def test_a_wrong_option_is_named_before_the_policy_is_looked_for(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        main([*POLICY, *arguments])


def test_an_image_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CVLightningError, match=r"--image.*missing\.png"):
        main([*POLICY, "What?", "--image", str(tmp_path / "missing.png")])


def test_the_same_question_gets_the_same_answer_and_none_is_a_status_of_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small_policy().export("policy")
    noise().save("image.png")
    arguments = ["What?", "--image", "image.png", "--policy", "policy", "--out", "kept", "--lane", "pillow"]
    status = main([*arguments, "--max-new-tokens", "8", "--max-context-tokens", "600", "--seed", "3"])
    first = capsys.readouterr().out
    assert status == 1, "random weights give no answer"
    assert "no answer" in first
    main([*arguments, "--max-new-tokens", "8", "--max-context-tokens", "600", "--seed", "3"])
    again = capsys.readouterr().out
    assert again.splitlines()[:-1] == first.splitlines()[:-1] != [], "the last line tells the speed"

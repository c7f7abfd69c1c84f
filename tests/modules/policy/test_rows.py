"""Checks that a policy can be asked a row, or can learn from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cv_lightning.errors import CheckpointError, ConversationError, DataError
from cv_lightning.types import Sample, Trajectory, Turn
from modules.policy.rows import RowReader, reader_of
from tests.modules.helpers import SIZE, episodes, noise, small_policy


def described(**changes: Any) -> dict[str, Any]:
    """The arguments of a policy that is built from scratch."""
    arguments: dict[str, Any] = {"source": None, "build": {"family": "qwen2_5_vl", **SIZE}, "system_prompt": "Read."}
    arguments |= {"toolbox": None, "open_reasoning": False, "min_pixels": 28 * 28, "max_pixels": 200 * 200}
    return arguments | {"max_context_tokens": 600} | changes


@pytest.fixture(scope="module")
def reader() -> RowReader:
    return reader_of(described())


def test_a_row_has_the_tokens_that_the_policy_gives_it(reader: RowReader) -> None:
    policy = small_policy()
    sample = Sample("a", "Read the text.", (noise(),), "x")
    assert reader.question(sample) is sample
    assert reader.conversation.start(sample).ids == policy.conversation.start(sample).ids
    for recorded in episodes():
        read = reader.episode(recorded)
        assert read.tokens.ids == policy.conversation.encode(recorded).ids
        assert any(read.tokens.is_trained)
        assert not recorded.tokens.ids, "the recorded one is left as it is"


def test_what_does_not_fit_is_named() -> None:
    short = reader_of(described(max_context_tokens=40))
    with pytest.raises(ConversationError, match="max_context_tokens=40"):
        short.question(Sample("a", "Read the text. " * 30, (noise(),), "x"))
    with pytest.raises(ConversationError, match="max_context_tokens=40"):
        short.episode(episodes()[0])


def test_a_conversation_without_a_turn_to_learn_from_is_named(reader: RowReader) -> None:
    first = episodes()[0]
    silent = replace(first, sample=replace(first.sample, id="row-7"), turns=[])
    untrained = replace(silent, turns=[replace(turn, is_trained=False) for turn in first.turns])
    for row in (silent, untrained):
        with pytest.raises(DataError, match=r"'row-7'.*no assistant turn to learn from"):
            reader.episode(row)


@pytest.mark.parametrize("is_trained", [True, False])
def test_tokens_of_the_environment_are_not_learned(reader: RowReader, is_trained: bool) -> None:
    first = episodes()[0]
    bad = Turn("<think><|image_pad|></think><answer>x</answer>", first.turns[-1].reply, is_trained=is_trained)
    good = Turn("<think>So.</think><answer>x</answer>", first.turns[-1].reply)
    row = Trajectory(replace(first.sample, id="row-8"), [bad] if is_trained else [bad, good])
    if is_trained:
        with pytest.raises(DataError, match=r"'row-8'.*'<\|image_pad\|>', which only the environment writes"):
            reader.episode(row)
    else:
        assert reader.episode(row).turns == row.turns, "a mistake that is shown and not imitated"


def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    small_policy().export(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"policy\.source: the tokenizer of .* cannot be read"):
        reader_of(described(source=str(tmp_path), build=None, system_prompt=None))

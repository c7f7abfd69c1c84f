"""The names closest to a wrong name."""

from __future__ import annotations

from cv_lightning.console.suggestions import closest, did_you_mean


def test_case_does_not_count_and_the_name_keeps_its_own() -> None:
    assert closest("grpomodule", ["SFTModule", "GRPOModule"])[0] == "GRPOModule"
    assert closest("ROTATE", ["rotate", "mirror"]) == ["rotate"]


def test_the_best_comes_first_and_few_are_named() -> None:
    names = ["max_step", "max_steps_", "max_steps", "min_steps", "fast_dev_run"]
    assert closest("max_steps", names, n=2) == ["max_steps", "max_steps_"]


def test_a_question_if_something_is_close_or_else_all_there_is() -> None:
    assert did_you_mean("sfd", ["sft", "grpo"]) == "Did you mean 'sft'?"
    assert did_you_mean("sf", ["sfa", "sfb"]) in {
        f"Did you mean {a} or {b}?" for a, b in (("'sfa'", "'sfb'"), ("'sfb'", "'sfa'"))
    }
    assert did_you_mean("zzz", ["sft", "grpo"]) == "Valid: grpo, sft."
    assert did_you_mean("zzz", []) == ""

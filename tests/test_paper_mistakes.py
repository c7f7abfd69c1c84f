"""The mistakes that benchmarks/paper_mistakes.py plants, and the turns that a policy takes after them."""

from __future__ import annotations

from collections import Counter

from cv_lightning.data.strategy_oracle import StrategyEpisodes
from cv_lightning.data.worlds.strategy import StrategyWorld
from cv_lightning.tools import CodeTools
from modules.policy import Policy, TinyConfig
from sandbox import ToolExecutor
from tests.benchmark_script import load_script


def test_a_policy_continues_after_the_planted_mistake() -> None:
    script = load_script("paper_mistakes")
    episodes = StrategyEpisodes(StrategyWorld(0), recovery=1, filters=0, in_one_call=0)
    policy = Policy(
        build=TinyConfig(),
        system_prompt="Read.",
        min_pixels=784,
        max_pixels=784,
        max_context_tokens=script.MAX_CONTEXT_TOKENS,
        toolbox=CodeTools(coordinates="announced"),
    )
    with ToolExecutor(lane="pillow") as executor:
        planted = list(script.with_mistakes(episodes, policy, executor, 40))
        n_planted = [len(begun.turns) for _, begun in planted]
        for mistake, begun in planted:
            assert [turn.is_trained for turn in begun.turns] == [True] * (len(begun.turns) - 1) + [False]
            last = begun.turns[-1].observation
            assert last is not None
            assert (last.status != "ok") == (mistake == "failing call")
            assert len(begun.tokens.images) == len(begun.images)
            opening = policy.conversation.opening()
            assert begun.tokens.ids[-len(opening) :] == opening
        answered = script.answers(iter(planted[:4]), policy, executor)
    assert {mistake for mistake, _ in planted} == {"failing call", "wrong turn", "wrong crop"}
    for (_, begun), n_turns in zip(planted[:4], n_planted, strict=False):
        assert len(begun.turns) > n_turns
        assert begun.stop_reason is not None
    assert Counter(mistake for mistake, _ in planted[:4]) == {
        mistake: len(found) for (family, mistake), found in answered.items() if family == "all"
    }

"""A full copy of the policy samples, with the policy's current weights."""

from __future__ import annotations

import pytest

from cv_lightning.types import Sample
from modules import GRPOModule
from modules.samplers import Replica, Sampler
from tests.modules.helpers import noise, small_policy

ASKED = [Sample(str(index), "Read.", (noise(84, 56, index),), "K7") for index in range(3)]


@pytest.mark.parametrize("sampler", [None, Replica()], ids=["itself", "replica"])
def test_a_module_answers_without_tools_by_its_sampler(sampler: Sampler | None) -> None:
    """A sharded policy cannot sample by itself, so questions without tools must also go through the sampler."""
    policy = small_policy(system_prompt=None)
    module = GRPOModule(policy, sampler=sampler)
    module._roller.refresh()
    spoken = []
    speaking = module._roller.sampler.speaking
    module._roller.sampler.speaking = lambda: spoken.append(True) or speaking()  # type: ignore[method-assign, func-returns-value]
    with_tools = module.roll_out(ASKED, 1, 0.0, 0).trajectories
    alone = module.roll_out_without_tools(ASKED, 0).trajectories
    module.teardown("test")
    assert len(spoken) == 2
    assert all(len(trajectory.turns) == 1 for trajectory in alone)
    call = policy.tokenizer.get_vocab()["<tool_call>"]
    assert not any(call in trajectory.tokens.ids[-len(trajectory.turns[0].text) :] for trajectory in alone)
    prompts = [policy.tokenizer.decode(one.tokens.ids) for one in (with_tools[0], alone[0])]
    assert "<tool_call>" in prompts[0].split("Read.")[0], "the default prompt explains the tool"
    assert "<tool_call>" not in prompts[1].split("Read.")[0]


def test_a_copy_bans_and_writes_what_its_policy_does() -> None:
    policy, sampler = small_policy(system_prompt=None), Replica()
    sampler.attach(policy)
    sampler.refresh()
    with policy.without_tools(), sampler.speaking() as copy:
        assert copy.conversation is policy.conversation
        assert copy.is_banned_V.equal(policy.is_banned_V)  # type: ignore[attr-defined]
    with sampler.speaking() as copy:
        assert copy.conversation.system_prompt == copy.conversation.toolbox.system_prompt
    sampler.close()

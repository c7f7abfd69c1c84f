"""Plant a mistake into answers of the paper's recipe, and count how often a policy still answers right.

    python benchmarks/paper_mistakes.py runs/paper/sft/policy runs/paper/rl/policy [--questions 1600] [--seed 0]

The first turns are the oracle's, up to its mistake, as in the SFT episodes with recovery: a call that fails, a turn
that leaves the image wrong, or a crop of another plate. The policy takes up to four turns after it, at temperature 0.
Mistakes that a policy makes itself are those that it did not see, so they say less about whether it can recover.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # this folder leaves the path: benchmarks/sandbox.py is no package

import argparse  # noqa: E402
from collections import defaultdict  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from itertools import islice  # noqa: E402

import torch  # noqa: E402

from cv_lightning.data.strategy_oracle import StrategyEpisodes  # noqa: E402
from cv_lightning.data.worlds.strategy import StrategyWorld  # noqa: E402
from cv_lightning.driver import drive  # noqa: E402
from cv_lightning.evidence import ORIENTATION_TOOLS  # noqa: E402
from cv_lightning.grading.rules import is_right  # noqa: E402
from cv_lightning.pages.tables import TextTable, show_table, wide_console  # noqa: E402
from cv_lightning.rollout import Sampling  # noqa: E402
from cv_lightning.types import Trajectory  # noqa: E402
from modules.policy import Policy  # noqa: E402
from sandbox import ToolExecutor  # noqa: E402

#: As in experiments/paper/shared.yaml.
MAX_TURNS, MAX_NEW_TOKENS, MAX_CONTEXT_TOKENS, BATCH = 4, 72, 640, 160


def main() -> None:
    """Measure each policy and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policies", type=Path, nargs="+")
    parser.add_argument("--questions", type=int, default=1600, help="of the test (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the recipe (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    episodes = StrategyEpisodes(StrategyWorld(options.seed), recovery=1, filters=0, in_one_call=0)
    rows = []
    with ToolExecutor() as executor:
        for path in options.policies:
            policy = Policy(str(path), max_context_tokens=MAX_CONTEXT_TOKENS)
            planted = with_mistakes(episodes, policy, executor, options.questions)
            for (family, mistake), answered in sorted(answers(planted, policy, executor).items()):
                n_right = sum(is_right(one.answer, one.sample.answer) for one in answered)
                rows.append([str(path), family, mistake, str(len(answered)), f"{100 * n_right / len(answered):.1f} %"])
    head = ["policy", "family", "planted mistake", "answers", "right"]
    show_table(TextTable("Answers after a planted mistake", head, rows), wide_console())


def with_mistakes(
    episodes: StrategyEpisodes, policy: Policy, executor: ToolExecutor, n_questions: int
) -> Iterator[tuple[str, Trajectory]]:
    """The kind of each mistake, and the trajectory up to it."""
    for index in range(n_questions):
        episode = episodes.episode("test", index, executor)
        last = next((n for n, turn in enumerate(episode.turns) if not turn.is_trained), None) if episode else None
        if episode is None or last is None:
            continue
        begun = Trajectory(
            episode.sample, episode.turns[: last + 1], [viewed for viewed in episode.images if viewed.turn <= last]
        )
        begun.tokens = policy.conversation.encode(begun)
        yield mistake_in(begun), begun


def mistake_in(begun: Trajectory) -> str:
    """The kind of mistake that the last turn makes."""
    observation = begun.turns[-1].observation
    if observation is None or observation.status != "ok":
        return "failing call"
    return "wrong turn" if ORIENTATION_TOOLS & set(observation.tools) else "wrong crop"


def answers(
    planted: Iterator[tuple[str, Trajectory]], policy: Policy, executor: ToolExecutor
) -> dict[tuple[str, str], list[Trajectory]]:
    """The answered trajectories by family and kind of mistake; "all" holds all families."""
    found = defaultdict(list)
    while batch := list(islice(planted, BATCH)):
        trajectories = [begun for _, begun in batch]
        session = policy.open_session(Sampling(0.0, MAX_NEW_TOKENS))
        drive(trajectories, session, policy.conversation, executor, MAX_TURNS)
        for mistake, trajectory in batch:
            for family in (trajectory.sample.family, "all"):
                found[family, mistake].append(trajectory)
    return dict(found)


if __name__ == "__main__":
    main()

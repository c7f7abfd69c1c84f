"""Groups without a spread of rewards teach nothing: sample them again, or take other prompts.

Sources: dynamic sampling of DAPO, arXiv 2503.14476; oversampling and ranking of PyVision-RL, arXiv 2602.20739.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from cv_lightning.types import Rollouts, Sample
from modules.advantages import has_spread, largest_spreads
from modules.rollouts import reward_totals

#: Rolls out samples and scores them; the number, from 0, identifies the call within a step.
RollOut = Callable[[Sequence[Sample], int], Rollouts]


def resample(batch: Sequence[Sample], roll_out: RollOut, max_resamples: int) -> Rollouts:
    """Roll out samples, and roll out groups without spread again, up to `max_resamples` times."""
    rollouts = roll_out(batch, 0)
    for attempt in range(1, max_resamples + 1):
        flat = (~has_spread(reward_totals(rollouts))).nonzero().flatten().tolist()
        if not flat:
            break
        again = roll_out([batch[index] for index in flat], attempt)
        groups, breakdowns = [*rollouts.groups], [*rollouts.breakdowns]
        for index, group, of_group in zip(flat, again.groups, again.breakdowns, strict=True):
            groups[index], breakdowns[index] = group, of_group
        rollouts = Rollouts(groups, breakdowns, rollouts.tools_s + again.tools_s)
    return rollouts


def oversample(batch: Sequence[Sample], roll_out: RollOut, n_kept: int) -> Rollouts:
    """Roll out `n_kept` prompts at a time until `n_kept` groups have a spread or the batch ends.

    Returns:
        The groups with the largest spreads, in the order of the batch; `n_prompts` counts all rolled-out prompts.
    """
    pool = Rollouts([], [])
    for part, first in enumerate(range(0, len(batch), n_kept)):
        more = roll_out(batch[first : first + n_kept], part)
        pool = Rollouts(pool.groups + more.groups, pool.breakdowns + more.breakdowns, pool.tools_s + more.tools_s)
        if int(has_spread(reward_totals(pool)).sum()) >= n_kept:
            break
    kept = largest_spreads(reward_totals(pool), n_kept)
    return replace(
        pool,
        groups=[pool.groups[index] for index in kept],
        breakdowns=[pool.breakdowns[index] for index in kept],
        n_prompts=len(pool.groups),
    )

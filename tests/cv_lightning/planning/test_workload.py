"""The workload that a config gives a device."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cv_lightning.planning.workload import patches_of_image
from tests.cv_lightning.planning.test_memory import size_of
from tests.cv_lightning.planning.works import WORK
from tests.modules.helpers import small_policy


def test_sequences_and_rows() -> None:
    assert WORK.sequences == 1
    work = replace(WORK, batch_size=8, group_size=4, micro_batch_tokens=0, epochs=2, optimizer_steps=4)
    assert work.sequences == 32
    assert work.rows == 16  # two minibatches in each of two passes
    assert replace(work, micro_batch_tokens=5999).rows == 5
    assert replace(work, micro_batch_tokens=50_000).rows == 16
    assert replace(work, micro_batch_tokens=1).rows == 1


@pytest.mark.parametrize(("at_once", "together"), [(0, 32), (32, 32), (15, 12), (3, 3), (100, 32)])
def test_whole_groups_are_sampled_together(at_once: int, together: int) -> None:
    assert replace(WORK, batch_size=8, group_size=4, sequences_at_once=at_once).sampled_together == together


def test_images_and_sampled_tokens_fit_into_a_sequence() -> None:
    size = size_of(small_policy())
    work = replace(WORK, tokens=100, images=9, patches=64, sampled=500).with_tokens(100, size)
    assert (work.images, work.sampled) == (3, 52)  # an image has 16 tokens


def test_images_are_as_large_as_their_source_says() -> None:
    size = size_of(small_policy())
    assert patches_of_image({"width": 112, "height": 56}, 10**6, size) == 8 * 4
    assert patches_of_image({"width": 112, "height": 112}, 28 * 28 * 2, size) == 2 * 4
    assert patches_of_image({"train": "rows.jsonl"}, 28 * 28 * 5, size) == 5 * 4

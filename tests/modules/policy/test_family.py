"""Every family through one interface: positions worked out by hand, features repeated for each placeholder."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from cv_lightning.types import Sample
from modules.policy.families import FAMILIES as KINDS
from tests.modules.helpers import FAMILIES, sampled_conversations, small_policy


@pytest.mark.parametrize("family", FAMILIES)
def test_text_counts_and_an_image_spreads_over_rows_and_columns(family: str) -> None:
    policy = small_policy(family)
    names = ("vision_start", "image_pad", "vision_end")
    start, image, end = (policy.tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in names)
    ids_1T = torch.tensor([[5, start, *[image] * 6, end, 6]])
    grid_13 = torch.tensor([[1, 4, 6]])  # patches: 2 x 3 tokens after merging
    positions_3T = policy.positions(ids_1T, torch.ones_like(ids_1T, dtype=torch.bool), grid_13)[:, 0]
    assert positions_3T[0].tolist() == [0, 1, 2, 2, 2, 2, 2, 2, 5, 6], "time"
    assert positions_3T[1].tolist() == [0, 1, 2, 2, 2, 3, 3, 3, 5, 6], "rows"
    assert positions_3T[2].tolist() == [0, 1, 2, 3, 4, 2, 3, 4, 5, 6], "columns"


@pytest.mark.parametrize("layers", [None, [["a", "b"], ["c", "d"]]], ids=["qwen2_5_vl", "qwen3_vl"])
def test_features_are_repeated_for_every_placeholder(layers: list[list[str]] | None) -> None:
    encoded = SimpleNamespace(pooler_output=["x", "y"], deepstack_features=layers)
    again = KINDS["qwen3_vl"].repeated(encoded, [1, 0, 1])
    assert again.pooler_output == ["y", "x", "y"]
    assert again.deepstack_features == (None if layers is None else [["b", "a", "b"], ["d", "c", "d"]])
    assert encoded.pooler_output == ["x", "y"], "the original is left as it is"


@pytest.mark.parametrize("family", FAMILIES)
def test_positions_are_those_of_hugging_face(family: str) -> None:
    """Images of several sizes, sequences of several lengths, and one sequence without an image."""
    policy = small_policy(family)
    seen = sampled_conversations(policy)
    text = policy.conversation.start(Sample("t", "What is one and one?", (), "2"))
    for sequences in ([*seen, text], [text], seen[4:5]):
        batch = policy.collate(sequences)
        grids = [policy.image_grid(viewed.image.size) for each in sequences for viewed in each.images]
        grid_O3 = torch.tensor(grids) if grids else None
        expected = policy.core.get_rope_index(
            batch.input_ids_BT,
            mm_token_type_ids=(batch.input_ids_BT == policy.core.config.image_token_id).int(),
            image_grid_thw=grid_O3,
            attention_mask=batch.is_valid_BT.int(),
        )[0]
        assert torch.equal(policy.positions(batch.input_ids_BT, batch.is_valid_BT, grid_O3), expected)

"""Attention over a packed row equals attention over each segment with its prefix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from modules.policy import row_attention
from modules.policy.row_attention import Segment, TiledAttention, VarlenAttention

CPU = torch.device("cpu")

#: A group of three with a prompt of five tokens, a single sequence, and a group of two with very different tails.
SEGMENTS = [
    Segment(0, 5),
    Segment(5, 3, 0, 5),
    Segment(8, 1, 0, 5),
    Segment(9, 4, 0, 5),
    Segment(13, 6),
    Segment(19, 2),
    Segment(21, 1, 19, 2),
    Segment(22, 200, 19, 2),
]


def by_hand(query_SHD: Tensor, key_SJD: Tensor, value_SJD: Tensor, segments: Sequence[Segment]) -> Tensor:
    """Softmax over the keys that a query sees, one query after another."""
    n_repeats = query_SHD.shape[1] // key_SJD.shape[1]
    key_SHD, value_SHD = (each.repeat_interleave(n_repeats, dim=1) for each in (key_SJD, value_SJD))
    found = []
    for segment in segments:
        prefix = range(segment.prefix_start, segment.prefix_start + segment.prefix_length)
        for token in range(segment.start, segment.start + segment.length):
            seen = [*prefix, *range(segment.start, token + 1)]
            weights_HK = torch.einsum("hd,khd->hk", 0.5 * query_SHD[token], key_SHD[seen]).softmax(-1)
            found.append(torch.einsum("hk,khd->hd", weights_HK, value_SHD[seen]))
    return torch.stack(found)


def flash_kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds_q: Tensor,
    bounds_k: Tensor,
    max_q: int,
    max_k: int,
    **options: Any,
) -> Tensor:
    """The contract of `torch.nn.attention.varlen.varlen_attn`: separate sequences; the last query sees the last key."""
    assert options["window_size"] == (-1, 0)
    assert (bounds_q.dtype, bounds_k.dtype) == (torch.int32, torch.int32)
    assert (int(bounds_q.diff().max()), int(bounds_k.diff().max())) == (max_q, max_k)
    found = []
    for start_q, end_q, start_k, end_k in zip(bounds_q, bounds_q[1:], bounds_k, bounds_k[1:], strict=False):
        part_q, part_k, part_v = query[start_q:end_q], key[start_k:end_k], value[start_k:end_k]
        is_seen = torch.ones(len(part_q), len(part_k), dtype=torch.bool).tril(len(part_k) - len(part_q))
        heads = (each.transpose(0, 1) for each in (part_q, part_k, part_v))
        attended = torch.nn.functional.scaled_dot_product_attention(
            *heads, attn_mask=is_seen, scale=options["scale"], enable_gqa=options["enable_gqa"]
        )
        found.append(attended.transpose(0, 1))
    return torch.cat(found)


@pytest.mark.parametrize("kv_heads", [2, 1])
@pytest.mark.parametrize("kind", ["tiles", "varlen"])
def test_every_token_sees_its_prefix_and_what_is_before_it(kind: str, kv_heads: int) -> None:
    attention = (
        TiledAttention(SEGMENTS, CPU) if kind == "tiles" else VarlenAttention(SEGMENTS, CPU, kernel=flash_kernel)
    )
    generator = torch.Generator().manual_seed(0)
    shapes = [(222, 2, 4), (222, kv_heads, 4), (222, kv_heads, 4)]
    inputs = [torch.randn(shape, dtype=torch.double, generator=generator, requires_grad=True) for shape in shapes]
    weights = torch.randn(shapes[0], dtype=torch.double, generator=generator)
    expected = by_hand(*inputs, SEGMENTS)
    wanted = torch.autograd.grad((expected * weights).sum(), inputs)
    actual = attention(*inputs, 0.5)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    for found, gradient in zip(torch.autograd.grad((actual * weights).sum(), inputs), wanted, strict=True):
        torch.testing.assert_close(found, gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("device", "dtype", "has_flash", "expected"),
    [
        ("cuda", torch.bfloat16, True, True),
        ("cuda", torch.float16, True, True),
        ("cuda", torch.float32, True, False),
        ("cuda", torch.bfloat16, False, False),
        ("cpu", torch.bfloat16, True, False),
    ],
)
def test_flash_is_taken_if_it_is_there(
    device: str, dtype: torch.dtype, has_flash: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: has_flash)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    assert row_attention.takes_flash(torch.device(device), dtype) == expected


def test_an_old_gpu_takes_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert not row_attention.takes_flash(torch.device("cuda"), torch.float16)


def test_pytorch_has_the_kernel() -> None:
    assert callable(row_attention.flash_kernel())


@pytest.mark.parametrize("n_queries", [1, 2])
def test_a_mask_is_that_of_hugging_face_without_repeated_keys(n_queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(3, 4, n_queries, 8, generator=generator)
    key, value = torch.randn(2, 3, 2, 9, 8, generator=generator)
    mask_BHSL = torch.rand(3, 1, n_queries, 9, generator=generator) < 0.6
    mask_BHSL[..., 0] = True
    layer = torch.nn.Module()
    layer.num_key_value_groups, layer.is_causal = 2, True  # type: ignore[assignment]
    expected, _ = row_attention.sdpa_attention_forward(layer, query, key, value, mask_BHSL, scaling=0.3)
    monkeypatch.setattr(row_attention, "sdpa_attention_forward", None)
    found, _ = row_attention.row_attention(layer, query, key, value, mask_BHSL, scaling=0.3)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)

"""Token sequences as tensors: padding on the right, and each distinct image once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from cv_lightning.types import TokenSequence, Trajectory, ViewedImage
from modules.policy.packed_row import PackedRow
from sandbox.lanes.tensor.images import TensorImage


@dataclass(frozen=True)
class DistinctImages:
    """The distinct images of some sequences, and the placeholders of each.

    Attributes:
        images_N: Distinct images.
        occurrences: For every image placeholder, in reading order over all sequences, the index into `images_N`.
        keys_N: A key of each image's pixels.
    """

    images_N: list[Image.Image]
    occurrences: list[int]
    keys_N: Sequence[bytes] = ()


def distinct_images(images: Sequence[ViewedImage]) -> DistinctImages:
    """Find the distinct images among `images` by content."""
    index_of_key: dict[bytes, int] = {}
    occurrences = [index_of_key.setdefault(viewed.key, len(index_of_key)) for viewed in images]
    image_of_key = {viewed.key: viewed.image for viewed in reversed(images)}  # the first of equal images stays
    return DistinctImages([image_of_key[key] for key in index_of_key], occurrences, [*index_of_key])


def image_bytes(trajectories: Sequence[Trajectory]) -> int:
    """Bytes of host memory that the images of some trajectories take, each image counted once.

    Pillow takes 4 bytes per RGB pixel; a tensor on an accelerator takes no host memory until Pillow reads it.
    """
    images = {id(viewed.image): viewed.image for each in trajectories for viewed in each.images}
    n_bytes = 0
    for image in images.values():
        if isinstance(image, TensorImage):
            n_bytes += image.pixels.numel() if image.pixels.device.type == "cpu" else 0
            n_bytes += 4 * image.width * image.height if image.is_on_host else 0
        else:
            n_bytes += 4 * image.width * image.height
    return n_bytes


@dataclass(frozen=True)
class TokenBatch:
    """Right-padded sequences.

    Attributes:
        input_ids_BT: Token ids, [B, T] long.
        is_valid_BT: True where a token is not padding.
        is_trained_BT: True where the policy wrote the token.
        logprobs_BT: Log-probability of a token under the policy that sampled it, 0 elsewhere.
        images: The distinct images and their placeholders.
        row: Packed row in which the network computes the batch; None: the network computes the padded batch.
    """

    input_ids_BT: Tensor
    is_valid_BT: Tensor
    is_trained_BT: Tensor
    logprobs_BT: Tensor
    images: DistinctImages
    row: PackedRow | None = None

    @property
    def n_computed(self) -> int:
        """Number of tokens that the network computes, without padding."""
        return int(self.is_valid_BT.sum()) if self.row is None else len(self.row.source_S)

    @property
    def n_alone(self) -> int:
        """Number of sequences whose prompt is computed for them alone."""
        return len(self.input_ids_BT) if self.row is None else self.row.n_alone

    def to(self, device: torch.device) -> TokenBatch:
        """The same batch with its tensors on `device`."""
        return replace(
            self,
            input_ids_BT=self.input_ids_BT.to(device),
            is_valid_BT=self.is_valid_BT.to(device),
            is_trained_BT=self.is_trained_BT.to(device),
            logprobs_BT=self.logprobs_BT.to(device),
        )


def collate(sequences: Sequence[TokenSequence], pad_id: int) -> TokenBatch:
    """Pad sequences on the right; ids and images are never truncated."""
    if not sequences:
        raise ValueError("sequences: expected at least one, got none")
    lengths_B = torch.tensor([len(sequence) for sequence in sequences])
    length = int(lengths_B.max())

    def padded(rows: Sequence[Sequence[float]], fill: float, dtype: torch.dtype) -> Tensor:
        return torch.tensor([[*row, *[fill] * (length - len(row))] for row in rows], dtype=dtype)

    return TokenBatch(
        input_ids_BT=padded([s.ids for s in sequences], pad_id, torch.long),
        is_valid_BT=torch.arange(length) < lengths_B[:, None],
        is_trained_BT=padded([s.is_trained for s in sequences], False, torch.bool),
        logprobs_BT=padded([s.logprobs for s in sequences], 0.0, torch.float),
        images=distinct_images([image for s in sequences for image in s.images]),
    )

"""Patches are those of Hugging Face's image processor, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from cv_lightning.errors import ConversationError
from modules.policy import image_patches as vision
from modules.policy.image_patches import Patcher
from sandbox import ToolExecutor, ToolRequest
from sandbox.lanes.tensor.images import TensorImage

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
PROCESSORS = {
    "qwen2_5_vl": Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 60}),
    "qwen3_vl": Qwen2VLImageProcessorPil(
        patch_size=16,
        size={"shortest_edge": 65536, "longest_edge": 32 * 32 * 90},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    ),
}


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def as_tensor_image(image: Image.Image, device: str) -> TensorImage:
    return TensorImage(torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().to(device))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("family", PROCESSORS)
@given(
    sizes=st.lists(st.tuples(st.integers(4, 400), st.integers(4, 400)), min_size=1, max_size=4),
    is_tensor=st.lists(st.booleans(), min_size=4, max_size=4),
)
def test_patches_equal_those_of_hugging_face(
    family: str, device: str, sizes: list[tuple[int, int]], is_tensor: list[bool]
) -> None:
    images = [noise(*size, seed) for seed, size in enumerate([*sizes, sizes[0]])]
    mixed = [as_tensor_image(image, device) if is_tensor[place % 4] else image for place, image in enumerate(images)]
    expected = PROCESSORS[family](images=images, return_tensors="pt")
    values, grids = Patcher(PROCESSORS[family])(mixed, torch.device(device))
    assert torch.equal(grids.cpu(), expected["image_grid_thw"])
    assert torch.equal(values.cpu(), expected["pixel_values"])
    assert not any(image.is_on_host for image in mixed if isinstance(image, TensorImage))


@pytest.mark.parametrize("family", PROCESSORS)
@given(sizes=st.lists(st.sampled_from([(97, 61), (61, 97), (300, 222), (56, 84)]), min_size=1, max_size=5))
def test_patches_of_batches_as_on_an_accelerator(family: str, sizes: list[tuple[int, int]]) -> None:
    images = [noise(*size, seed) for seed, size in enumerate(sizes)]
    expected = PROCESSORS[family](images=images, return_tensors="pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vision, "_is_host", lambda device: False)
        patch.setattr(vision, "to_pillow", None)
        values, grids = Patcher(PROCESSORS[family])(
            [as_tensor_image(image, "cpu") if place % 3 else image for place, image in enumerate(images)],
            torch.device("cpu"),
        )
    assert torch.equal(grids, expected["image_grid_thw"])
    assert torch.equal(values, expected["pixel_values"])


@pytest.mark.parametrize("cores", [1, 9])
def test_large_images_are_cut_in_threads(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vision, "_MANY_VALUES", 0)
    monkeypatch.setattr(vision, "_CACHED_VALUES", 1)
    monkeypatch.setattr(vision, "count_cores", lambda: cores)
    images = [noise(197, 261), noise(300, 222)]
    expected = PROCESSORS["qwen3_vl"](images=images, return_tensors="pt")
    values, _ = Patcher(PROCESSORS["qwen3_vl"])(images, torch.device("cpu"))
    assert torch.equal(values, expected["pixel_values"])


@pytest.mark.parametrize("is_host", [True, False])
def test_half_precision_of_the_trainer_changes_nothing(is_host: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vision, "_is_host", lambda device: is_host)
    images = [noise(97, 61), as_tensor_image(noise(300, 222), "cpu")]
    expected = PROCESSORS["qwen3_vl"](images=[images[0], noise(300, 222)], return_tensors="pt")
    usual = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.bfloat16)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            values, _ = Patcher(PROCESSORS["qwen3_vl"])(images, torch.device("cpu"))
    finally:
        torch.set_default_dtype(usual)
    assert torch.equal(values, expected["pixel_values"])


def test_an_image_of_another_mode_is_read_as_rgb() -> None:
    images = [noise(90, 70).convert("L"), noise(90, 70).convert("CMYK")]
    processor = PROCESSORS["qwen2_5_vl"]
    expected = processor(images=images, return_tensors="pt")["pixel_values"]
    assert torch.equal(Patcher(processor)(images, torch.device("cpu"))[0], expected)


@pytest.mark.parametrize("device", DEVICES)
def test_from_tool_to_patches_without_pillow(device: str) -> None:
    images = [noise(140, 90, seed) for seed in range(3)]
    codes = ["result = image.rotate(90, expand=True)", "result = ImageEnhance.Contrast(image).enhance(1.7)"]
    requests = [ToolRequest(code, [image]) for image in images for code in codes]
    with ToolExecutor(lane="kornia", device=device) as executor:
        results = [observation.image for observation in executor.execute(requests)]
    expected = [observation.image for observation in ToolExecutor(lane="pillow").execute(requests)]
    processor = PROCESSORS["qwen2_5_vl"]
    values, _ = Patcher(processor)([image for image in results if image], torch.device(device))
    assert torch.equal(values.cpu(), processor(images=expected, return_tensors="pt")["pixel_values"])
    assert not any(image.is_on_host for image in results if isinstance(image, TensorImage))
    assert sum(isinstance(image, TensorImage) for image in results) == len(requests)


def test_another_rescale_factor() -> None:
    processor = Qwen2VLImageProcessorPil(rescale_factor=1 / 127.3)
    images = [noise(60, 60)]
    expected = processor(images=images, return_tensors="pt")["pixel_values"]
    assert torch.equal(Patcher(processor)(images, torch.device("cpu"))[0], expected)


def test_no_images_and_an_image_that_is_too_thin() -> None:
    patcher = Patcher(PROCESSORS["qwen2_5_vl"])
    values, grids = patcher([], torch.device("cpu"))
    assert values.shape == (0, 3 * 2 * 14 * 14)
    assert grids.shape == (0, 3)
    with pytest.raises(ConversationError, match="1000 x 4 pixels cannot be encoded"):
        patcher([noise(1000, 4)], torch.device("cpu"))

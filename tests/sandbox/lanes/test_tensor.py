"""The law of the lanes: what the tensor lane takes comes out as from the Pillow lane, pixels by contract."""

from __future__ import annotations

import copy
import pickle
import re
import warnings
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sandbox import Limits, Observation, ToolExecutor, ToolProgram, ToolRequest, print_program
from sandbox.lanes.lane import Lifted
from sandbox.lanes.tensor import batch, filters, lane, thresholds
from sandbox.lanes.tensor.batch import ProgramBatches
from sandbox.lanes.tensor.images import TensorImage, stacked, to_pillow
from sandbox.lanes.tensor.kinds import KINDS, TensorKind
from sandbox.lanes.tensor.lane import TensorLane
from sandbox.lanes.tensor.selfcheck import broken_operations, operations_of, self_check
from sandbox.lanes.tensor.table import DECLINED, PARTLY_DECLINED, kind_of
from sandbox.lift.reader import lift
from sandbox.operations.arrays import Table
from sandbox.operations.operation import State
from sandbox.operations.table import OPERATIONS
from sandbox.types import Exactness
from tests.sandbox import strategies
from tests.sandbox.lanes import kornia_table
from tests.sandbox.operations.edges import calls

CONTRACTS: list[Exactness] = ["exact", "close"]
#: What an observation says of where it was made.
PLACE = {"lane", "wall_s", "exactness", "library"}
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def noise(width: int, height: int, seed: int = 3) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def picture(width: int, height: int) -> Image.Image:
    """Smooth colours with flat parts: what photographs and charts are made of."""
    small = np.random.default_rng(5).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def as_tensor(image: Image.Image, device: str) -> torch.Tensor:
    array = np.array(image)
    return torch.from_numpy(array[..., None] if array.ndim == 2 else array).permute(2, 0, 1).contiguous().to(device)


def difference(one: Image.Image, other: Image.Image) -> int:
    assert (one.size, one.mode) == (other.size, other.mode)
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max())


def differences(kind: TensorKind, values: Any, image: Image.Image, expected: Image.Image, device: str) -> Any:
    """Of the second image of a batch of three, all values."""
    mine, other = as_tensor(image, device), as_tensor(noise(*image.size).convert(image.mode), device)
    result = to_pillow(kind.call(torch.stack([other, mine, other]), [values] * 3)[1])
    assert (result.size, result.mode) == (expected.size, expected.mode)
    return np.abs(np.asarray(result).astype(int) - np.asarray(expected).astype(int))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("exactness", CONTRACTS)
@pytest.mark.parametrize("name", sorted(operations_of("close")))
@given(data=st.data())
def test_operation_is_that_of_the_library(name: str, exactness: Exactness, device: str, data: st.DataObject) -> None:
    mode = data.draw(st.sampled_from([mode for mode in ("RGB", "L") if mode in OPERATIONS[name].modes]))
    operation = data.draw(strategies.operations_named(name))
    image = data.draw(strategies.images()).convert(mode)
    kind = kind_of(name, operation.values, State(image.size, mode), exactness)
    if isinstance(kind, str):
        return
    try:
        expected = OPERATIONS[name].call(image, operation.values)
    except (ValueError, TypeError, cv2.error):  # a colour of three numbers for a gray image
        return
    assert exactness == "close" or kind.is_exact(operation.values)
    found = differences(kind, operation.values, image, expected, device)
    few = 2 if kind.far(operation.values) else 0  # a tie of a tiny image is a large share of it
    assert (found > kind.most(operation.values)).sum() <= kind.far(operation.values) * found.size + few


LARGE = [
    ("Image.resize", ((613, 401), 3, None, None)),
    ("Image.resize", ((1999, 1500), 1, None, None)),
    ("Image.resize", ((7, 1999), 2, (3.25, 8.5, 601.75, 300), None)),
    ("Image.resize", ((1024, 1), 5, None, None)),
    ("Image.resize", ((333, 222), 0, None, None)),
    ("Image.rotate", (33.3, 2, False, (1250, 20), (-999, 100), "red")),
    ("Image.rotate", (-7, 2, False, (100, 900.5), (12, -3.5), None)),
    ("Image.rotate", (211, 0, True, None, None, (1, 2, 3))),
    ("ImageFilter.GaussianBlur", (17.3,)),
    ("ImageFilter.BoxBlur", (49.9,)),
    ("ImageFilter.UnsharpMask", (4, 200, 2)),
    ("ImageFilter.SMOOTH_MORE", ()),
    ("ImageOps.equalize", ()),
    ("ImageOps.autocontrast", (3.5, 17, None, True)),
    ("ImageEnhance.Contrast", (2.71,)),
    ("ImageOps.pad", ((1700, 300), 3, (9, 8, 7), (0.3, 0.9))),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("exactness", CONTRACTS)
@pytest.mark.parametrize(("name", "values"), LARGE)
def test_large_images(name: str, values: Any, exactness: Exactness, device: str) -> None:
    image = picture(1300, 977) if exactness == "exact" else picture(700, 377)
    kind = kind_of(name, values, State(image.size), exactness)
    if isinstance(kind, str):
        assert exactness == "exact"
        assert not KINDS[name][0].is_exact(values)
        return
    found = differences(kind, values, image, OPERATIONS[name].call(image, values), device)
    assert (found > kind.most(values)).mean() <= kind.far(values)


def run_both(
    requests: Sequence[ToolRequest], device: str = "cpu", exactness: Exactness = "exact"
) -> tuple[list[Observation], list[Observation]]:
    tensor = ToolExecutor(lane="kornia", device=device, exactness=exactness)
    with tensor, ToolExecutor(lane="pillow") as pillow:
        return tensor.execute(requests), pillow.execute(requests)


def assert_equal(one: Observation, other: Observation) -> None:
    """Every field but the place and the time, pixel by pixel if the lane is exact."""
    for field in fields(Observation):
        if field.name in PLACE:
            continue
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(theirs, Image.Image) and one.exactness == "close":
            assert (mine.mode, mine.size) == (theirs.mode, theirs.size)
        elif isinstance(theirs, Image.Image):
            assert (mine.mode, mine.size, mine.tobytes()) == (theirs.mode, theirs.size, theirs.tobytes())
        else:
            assert mine == theirs, field.name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("exactness", CONTRACTS)
@given(
    st.lists(strategies.programs(most=5), min_size=1, max_size=5), st.lists(strategies.images(), min_size=2, max_size=3)
)
def test_observations_are_equal_field_by_field(
    exactness: Exactness, device: str, programs: list[ToolProgram], images: list[Image.Image]
) -> None:
    requests = [ToolRequest(print_program(program), images) for program in programs]
    for one, other in zip(*run_both(requests, device, exactness), strict=True):
        assert_equal(one, other)


#: Where an operation that is only close could show a change that is not there, or hide one.
DELICATE = [
    "result = image.filter(ImageFilter.GaussianBlur(2))",
    "result = image.filter(ImageFilter.BoxBlur(1)).filter(ImageFilter.BoxBlur(1))",
    "result = Image.fromarray(cv2.blur(np.array(image), (3, 3)))",
    "result = ImageEnhance.Contrast(image.filter(ImageFilter.GaussianBlur(1))).enhance(100)",
    "result = ImageOps.equalize(image.filter(ImageFilter.DETAIL))",
    "result = ImageOps.mirror(image.filter(ImageFilter.GaussianBlur(3)))",
    "result = ImageOps.invert(ImageOps.invert(image.filter(ImageFilter.SMOOTH_MORE)))",
    "result = image.rotate(15, Image.BILINEAR)",
    "result = image.rotate(359.99, Image.BICUBIC)",
    "result = image.resize((30, 20)).resize((60, 40))",
    "result = Image.fromarray(cv2.cvtColor(cv2.cvtColor(np.array(image), cv2.COLOR_RGB2YUV), cv2.COLOR_YUV2RGB))",
    "result = Image.fromarray(cv2.cvtColor(np.array(image), cv2.COLOR_RGB2HSV))",
]


@pytest.mark.parametrize("code", DELICATE)
def test_a_close_operation_earns_what_the_exact_one_does(code: str) -> None:
    flat, bright = Image.new("RGB", (60, 40), (99, 99, 99)), Image.new("RGB", (60, 40), "white")
    almost = flat.copy()
    almost.putpixel((30, 20), (100, 99, 99))
    symmetric = Image.fromarray(np.concatenate([np.asarray(picture(30, 40))] * 2, 1))
    requests = [ToolRequest(code, [image]) for image in (flat, bright, almost, symmetric, picture(60, 40))]
    for one, other in zip(*run_both(requests, exactness="close"), strict=True):
        assert_equal(one, other)


def test_differences_that_an_operation_left_are_followed() -> None:
    with ToolExecutor(lane="pillow") as executor:
        plans = [executor.plan(ToolRequest(code, [noise(60, 40)])) for code in DELICATE]
    batches = ProgramBatches("cpu", "close")
    found = [batches.plan(plan.program) for plan in plans if isinstance(plan, Lifted)]
    errors = [[step.error for step in steps] if not isinstance(steps, str) else steps for steps in found]
    assert errors[:3] == [[2], [1, 3], [1]]
    assert errors[3] == [2, 401 * 0 + 2 * 199 + 1]
    assert errors[4] == "ImageOps.equalize: it may enlarge the difference that a close operation left"
    assert errors[5] == [2, 2]


SNIPPETS = [
    "result = image.rotate(90, expand=True)",
    "result = image.rotate(10, Image.BICUBIC, expand=True).crop((3, 4, 30, 20))",
    "result = ImageOps.invert(ImageOps.invert(image))",
    "result = ImageOps.invert(ImageOps.invert(image.crop((1, 1, 5, 5))))",
    "result = ImageEnhance.Contrast(image).enhance(1.5).convert('L')",
    "result = ImageEnhance.Contrast(image).enhance(1)",
    "result = image.resize((40, 24), Image.NEAREST).resize((20, 12), Image.NEAREST)",
    "result = ImageOps.expand(image, 2).crop((2, 2, 22, 14))",
    "result = image",
    "result = image_1.rotate(180)",
    "result = Image.fromarray(cv2.Canny(np.array(image), 50, 150))",
    "print(image.size)",
    "result = image.crop((5, 5, 1, 1))",
    "result = image.resize((100000, 2))",
    "result = image.filter(ImageFilter.MedianFilter(4))",
    "result = image.crop((2, 2, 2, 9))",
    "result = nothing",
    "result = ",
    "",
]


def test_observations_of_a_mixed_batch_keep_their_order() -> None:
    images = [noise(20, 12), noise(12, 20, 4)]
    requests = [ToolRequest(code, images, index) for code in SNIPPETS for index in (0, 1)] * 2
    requests.append(ToolRequest("result = image.resize((100000, 100000))", images))
    limits = Limits(wall_s=30)  # the last one fills a worker's memory, which a busy machine gives slowly
    tensor = ToolExecutor(lane="kornia", device="cpu", limits=limits).execute(requests)
    usual = ToolExecutor(lane="auto", limits=limits).execute(requests)
    for one, other in zip(tensor, usual, strict=True):
        assert_equal(one, other)
    assert tensor[-1].status != "ok"
    lanes = {request.code: observation.lane for request, observation in zip(requests, tensor, strict=True)}
    assert lanes[SNIPPETS[0]] == "kornia"
    assert lanes["result = image.rotate(10, Image.BICUBIC, expand=True).crop((3, 4, 30, 20))"] == "pillow"
    assert {"kornia", "pillow", "none"} <= {observation.lane for observation in tensor}


def test_large_batches_in_threads_keep_their_order() -> None:
    images = [noise(700, 500 + seed, seed) for seed in range(6)]
    requests = [ToolRequest(f"result = image.crop(({place}, 2, 300, 200))", [images[place % 6]]) for place in range(12)]
    alone = [ToolExecutor(lane="pillow").execute([request])[0] for request in requests]
    for one, other in zip(ToolExecutor(lane="pillow").execute(requests), alone, strict=True):
        assert_equal(one, other)


def test_empty_batch() -> None:
    with ToolExecutor(lane="kornia", device="cpu") as executor:
        assert executor.execute([]) == []
    assert ProgramBatches("cpu").run([], []) == []


def test_every_operation_that_lifts_is_done_or_declined_by_name() -> None:
    assert set(operations_of("close")) | set(DECLINED) == set(OPERATIONS)
    assert not set(operations_of("close")) & set(DECLINED)
    assert len(operations_of("close")) >= 0.9 * len(OPERATIONS)
    name = "cv2.fastNlMeansDenoising"
    assert kind_of(name, (1, 3, 3), State((9, 9)), "close") == f"{name}: {DECLINED[name]}"
    kernel = Table(((1,) * 31,) * 31, "uint8")
    assert "grows with the elements" in str(kind_of("cv2.erode", (kernel, 20), State((9, 9)), "close"))


def test_a_device_that_is_not_there() -> None:
    for name in ("cuda:77", "abacus", "xpu:5"):
        with pytest.raises(ValueError, match=rf"device of this machine \(cpu.*\) but got device='{name}'"):
            ToolExecutor(lane="kornia", device=name)
    with pytest.raises(ValueError, match="uses no device, but got device='cpu'"):
        ToolExecutor(lane="pillow", device="cpu")
    with pytest.raises(ValueError, match=r"exactness='exact' with lane='confined'"):
        ToolExecutor(lane="confined", exactness="close")
    with pytest.raises(ValueError, match=r"exactness to be one of exact, close but got exactness='near'"):
        ToolExecutor(exactness="near")  # type: ignore[arg-type]


def test_out_of_memory_splits_the_batch_then_falls_back_and_says_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    (invert,) = KINDS["ImageOps.invert"]
    seen = []

    def starved(images_NCHW: torch.Tensor, values: Sequence[Any]) -> torch.Tensor:
        seen.append(len(images_NCHW))
        if len(images_NCHW) > 1 or images_NCHW[0, 0, 0, 0] == 0:
            raise torch.OutOfMemoryError("out of memory")
        return invert.call(images_NCHW, values)

    monkeypatch.setitem(KINDS, "ImageOps.invert", [TensorKind(starved, is_per_image=True)])
    images = [Image.new("RGB", (6, 5), (value, 0, 0)) for value in (1, 0, 2, 0)]
    requests = [ToolRequest("result = ImageOps.invert(image)", [image]) for image in images]
    with ToolExecutor(lane="kornia", device="cpu") as executor:
        with pytest.warns(RuntimeWarning, match=r"ImageOps.invert on 6x5 pixels .*out of memory.*said once") as warned:
            observations = executor.execute(requests)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            executor.execute(requests)
    assert len(warned) == 1
    assert seen[:7] == [4, 2, 1, 1, 2, 1, 1]
    assert [observation.lane for observation in observations] == ["kornia", "pillow", "kornia", "pillow"]
    expected = ToolExecutor(lane="pillow").execute(requests)
    for one, other in zip(observations, expected, strict=True):
        assert_equal(one, other)


def test_what_a_device_reports_late_is_left_to_the_pillow_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(flags: object) -> None:
        raise RuntimeError("device-side assert")

    monkeypatch.setattr(batch, "_fetched", late)
    with (
        ToolExecutor(lane="kornia", device="cpu") as executor,
        pytest.warns(RuntimeWarning, match="could not finish 1 programs .*device-side assert"),
    ):
        (observation,) = executor.execute([ToolRequest("result = ImageOps.invert(image)", [noise(4, 4)])])
    assert (observation.status, observation.lane) == ("ok", "pillow")


def test_equal_calls_are_done_once() -> None:
    image = noise(8, 6)
    (program,) = {lift("result = image.rotate(180)", (image.size,))}
    assert isinstance(program, ToolProgram)
    batches = ProgramBatches("cpu")
    steps = batches.plan(program)
    assert not isinstance(steps, str)
    outcomes = batches.run([steps] * 3, [image] * 3)
    pixels = {id(outcome.image.pixels) for outcome in outcomes if outcome and isinstance(outcome.image, TensorImage)}
    assert len(pixels) == 1


def test_auto_takes_what_is_cheaper_and_splits_the_batch() -> None:
    image = noise(400, 300)
    codes = ["result = image.filter(ImageFilter.MaxFilter(3))", "result = image.rotate(90, expand=True)"]
    requests = [ToolRequest(code, [image]) for code in codes]
    with ToolExecutor(lane="auto", device="cpu") as executor:
        observations = executor.execute(requests)
    assert [observation.lane for observation in observations] == ["kornia", "pillow"]
    for one, other in zip(observations, ToolExecutor(lane="pillow").execute(requests), strict=True):
        assert_equal(one, other)


def test_results_beyond_the_budget_are_refused_before_they_are_made() -> None:
    with ToolExecutor(lane="kornia", device="cpu", limits=Limits(result_megapixels=0.001)) as executor:
        (observation,) = executor.execute([ToolRequest("result = image.resize((99, 99))", [noise(9, 9)])])
    assert observation.status == "error"
    assert "too large: 99x99" in observation.text


def test_a_broken_file_is_an_observation(tmp_path: Any) -> None:
    path = tmp_path / "cut.png"
    noise(64, 64).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with Image.open(path) as broken:
        tensor, pillow = run_both([ToolRequest("result = image.rotate(180)", [broken])] * 2)
    assert tensor[0].status == "error"
    assert_equal(tensor[0], pillow[0])


def test_tensor_image_is_a_pillow_image_when_asked() -> None:
    original = noise(7, 5)
    image = TensorImage(as_tensor(original, "cpu"))
    assert (image.size, image.mode, image.is_on_host) == ((7, 5), "RGB", False)
    assert image.content_key() == TensorImage(as_tensor(original, "cpu")).content_key()
    assert not image.is_on_host
    assert image.tobytes() == original.tobytes()
    assert image.is_on_host
    for made in (copy.copy(image), copy.deepcopy(image), pickle.loads(pickle.dumps(image)), image.convert("RGB")):
        assert (made.mode, made.size, made.tobytes()) == ("RGB", (7, 5), original.tobytes())
    with pytest.raises(ValueError, match=r"Expected a uint8 tensor \[3, H, W\]"):
        TensorImage(torch.zeros(3, 4, 4))


@given(strategies.images(), st.integers(0, 10**6), st.integers(1, 255))
def test_fingerprint_sees_every_pixel(image: Image.Image, place: int, step: int) -> None:
    pixels = as_tensor(image, "cpu")
    other = pixels.clone()
    flat = other.view(-1)
    flat[place % len(flat)] += step
    assert TensorImage(pixels).content_key() != TensorImage(other).content_key()
    if image.width != image.height:
        turned = pixels.reshape(3, image.width, image.height)
        assert TensorImage(pixels).content_key() != TensorImage(turned).content_key()


def test_times_that_cannot_be_measured_leave_the_calls_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no kernel image")

    tensor_lane = TensorLane("cpu", is_forced=False)
    monkeypatch.setattr(lane, "threshold", fails)
    program = lift("result = image.rotate(180)", ((8, 6),))
    assert isinstance(program, ToolProgram)
    with pytest.warns(RuntimeWarning, match="could not measure its costs .*no kernel image"):
        assert tensor_lane.run([Lifted(ToolRequest("", [noise(8, 6)]), program)]) == [None]


def test_fingerprint_of_a_part_of_a_batch() -> None:
    batch = torch.arange(3 * 3 * 5 * 7, dtype=torch.int32).to(torch.uint8).view(3, 3, 5, 7)
    for pixels in batch:
        assert TensorImage(pixels).content_key() == TensorImage(pixels.clone()).content_key()
    eights = torch.zeros(2, 3, 8, 9, dtype=torch.uint8).view(-1)[3 : 3 + 216].view(3, 8, 9)
    assert TensorImage(eights).content_key() == TensorImage(eights.clone()).content_key()


def test_neighbours_are_stacked_without_a_copy() -> None:
    batch = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).view(2, 3, 4, 5)
    assert stacked(list(batch)).data_ptr() == batch.data_ptr()
    assert torch.equal(stacked([batch[1], batch[0]]), batch.flip(0))
    assert torch.equal(stacked([batch[0], batch[0]]), batch[:1].repeat(2, 1, 1, 1))


def test_lane_without_a_name_of_a_device_takes_what_is_there() -> None:
    tensor_lane = TensorLane(None, is_forced=True)
    program = lift("result = image.rotate(180)", ((8, 6),))
    assert isinstance(program, ToolProgram)
    (observation,) = tensor_lane.run([Lifted(ToolRequest("", [noise(8, 6)]), program)])
    assert observation is not None
    assert observation.tools == ("rotate_180",)


def rows_of(heading: str, columns: int) -> list[list[str]]:
    """Rows of the tables below a heading of the documentation; one for each name in the first cell, without quotes."""
    text = (Path(__file__).parents[3] / "docs/kornia_lane.md").read_text(encoding="utf-8")
    part = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [re.findall(r"[^|]+", line) for line in part.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in row][:columns] for row in rows]
    return [[name.strip("`"), *rest] for first, *rest in cells for name in first.split(", ")]


def assert_documented(name: str) -> None:
    """The same calls as when the table was printed; another processor may round a mean otherwise."""
    (row,) = [row for row in rows_of("How close it is", 7) if row[0] == name]
    found = kornia_table.measured(name)
    assert row[1] == found.backend
    assert [float(value) for value in row[5:]] == [round(found.exact), round(found.close)]
    if found.close:
        assert int(row[2]) == found.most
        assert [float(value) for value in row[3:5]] == pytest.approx([found.mean, found.beyond], rel=0.02, abs=2e-4)
    assert found.most <= 2 or (name == "ImageFilter.UnsharpMask" and found.beyond <= 2)  # ties at its threshold


#: One operation of each file, contract and kind of difference.
SAMPLED = [
    *("orient", "Image.rotate", "Image.resize", "ImageOps.posterize", "ImageFilter.DETAIL", "ImageFilter.GaussianBlur"),
    *("ImageFilter.UnsharpMask", "ImageFilter.BoxBlur", "Image.transform", "cv2.resize", "cv2.GaussianBlur"),
    *("cv2.BGR2LAB", "cv2.filter2D", "cv2.createCLAHE", "cv2.warpAffine"),
]


@pytest.mark.parametrize("name", SAMPLED)
def test_documented_differences_are_those_that_are_measured(name: str) -> None:
    """Printed by `python -m tests.sandbox.lanes.kornia_table`."""
    assert_documented(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in SAMPLED])
def test_all_documented_differences_are_those_that_are_measured(name: str) -> None:
    """The rest of the table."""
    assert_documented(name)


def test_the_table_has_a_row_for_each_operation() -> None:
    rows = [row for row in rows_of("How close it is", 7) if len(row) == 7]  # the table of files follows
    assert [row[0] for row in rows] == list(OPERATIONS)
    counts = [sum(1 for row in rows if float(row[column])) for column in (5, 6)]
    text = " ".join((Path(__file__).parents[3] / "docs/kornia_lane.md").read_text(encoding="utf-8").split())
    assert f'"exact" does some calls of {counts[0]} operations, "close" of {counts[1]} (of {len(OPERATIONS)})' in text


def test_documented_reasons_are_those_that_are_given() -> None:
    assert sorted(rows_of("Calls it declines", 2)) == sorted(
        [name, reason] for reasons in (DECLINED, PARTLY_DECLINED) for name, reason in reasons.items()
    )


@pytest.mark.parametrize(
    ("name", "values", "size"),
    [
        ("Image.resize", ((10, 10), 3, None, 1.5), (400, 300)),
        ("Image.rotate", (60, 0, False, (99999, 0), None, None), (40, 30)),
        ("ImageOps.pad", ((1, 900), 3, None, (0.5, 0.5)), (9000, 1)),
        ("ImageFilter.Kernel", ((3, 3), (1e6,) * 9, 1, 0), (40, 30)),
        ("ImageFilter.UnsharpMask", (2, 900, 3), (40, 30)),
        ("cv2.GaussianBlur", ((3, 3), 1e-9, 0), (40, 30)),
        ("cv2.filter2D", (-1, None), (40, 30)),
        ("cv2.warpAffine", (Table(((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)), "float64"), (9, 9), 4, 0, 0), (40, 30)),
    ],
)
@pytest.mark.parametrize("exactness", CONTRACTS)
def test_calls_that_are_declined(exactness: Exactness, name: str, values: Any, size: tuple[int, int]) -> None:
    assert kind_of(name, values, State(size), exactness) == f"{name}: {PARTLY_DECLINED[name]}"


@pytest.mark.parametrize("exactness", CONTRACTS)
def test_opencv_copies_what_a_factor_leaves_as_long(exactness: Exactness) -> None:
    """An axis alone would be copied, that of a taller image is resampled: 2 pixels by 1.25 are 2 pixels."""
    for factors in ((1.25, 2.0), (1.25, 1.25)):
        assert "leaves a side" in str(kind_of("cv2.resize", (None, *factors, 0), State((2, 1)), exactness))
    kind = kind_of("cv2.resize", (None, 1.0, 2.0, 0), State((2, 1)), exactness)
    assert isinstance(kind, TensorKind)
    assert kind.is_exact((None, 1.0, 2.0, 0))


@pytest.mark.parametrize("exactness", CONTRACTS)
@pytest.mark.parametrize("device", DEVICES)
def test_self_check(device: str, exactness: Exactness) -> None:
    found = self_check(device, exactness, ((40, 30), (3, 1)), n_calls=10)
    assert [name for name, difference in found.items() if not difference.is_kept] == []
    assert exactness == "close" or {difference.most for difference in found.values()} == {0}


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_half_precision_of_the_trainer_changes_nothing(half: torch.dtype, device: str) -> None:
    """No operation is allowed in half precision: neither autocast nor a default of half floats reaches the lane."""
    usual, precision = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    try:
        torch.set_default_dtype(half)
        torch.set_float32_matmul_precision("medium")
        with torch.autocast(torch.device(device).type, dtype=half):
            found = self_check(device, "close", ((40, 30),), n_calls=10)
            assert all(difference.is_kept for difference in found.values())
            assert (torch.get_default_dtype(), torch.get_float32_matmul_precision()) == (half, "medium")
    finally:
        torch.set_default_dtype(usual)
        torch.set_float32_matmul_precision(precision)


def test_a_kornia_that_computes_otherwise_is_found_named_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def rolled(image: torch.Tensor, *_: object) -> torch.Tensor:
        return image.roll(1, 3)

    monkeypatch.setattr(filters.filters, "median_blur", rolled)
    monkeypatch.delattr(filters.morphology, "erosion")
    broken_operations.cache_clear()
    codes = ["MedianFilter(3)", "MinFilter(3)", "MaxFilter(3)"]
    requests = [ToolRequest(f"result = image.filter(ImageFilter.{code})", [noise(40, 30)]) for code in codes]
    try:
        with pytest.warns(RuntimeWarning, match=r"MedianFilter: Kornia [\d.]+ differs by \d+ of 255.*MinFilter.*fails"):
            tensor, pillow = run_both(requests)
    finally:
        broken_operations.cache_clear()
    assert [observation.lane for observation in tensor] == ["tool_worker", "pillow", "kornia"]
    for one, other in zip(tensor, pillow, strict=True):
        assert_equal(one, other)


class Written(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts the values that torch writes, and the largest tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.total = self.largest = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for made in result if isinstance(result, tuple | list) else (result,):
            if isinstance(made, torch.Tensor):
                self.total, self.largest = self.total + made.numel(), max(self.largest, made.numel())
        return result


#: Values that a call writes for each of the image before and after, and those of its largest tensor: matrices, windows.
MOST_WRITTEN, LARGEST = 60_000, 1 << 25


@pytest.mark.parametrize("name", sorted(operations_of("close")))
def test_what_runs_on_tensors_is_bounded(name: str) -> None:
    """By arguments at the edges: what it writes grows with the pixels alone, whatever they are."""
    for values, image in calls(name, 12, 0):
        state = State(image.size, image.mode)
        kind = kind_of(name, values, state, "close")
        if isinstance(kind, str):
            continue
        after = OPERATIONS[name].after(values, state)
        n_values = 3 * sum(width * height for width, height in (image.size, after.size))
        with Written() as written:
            try:
                kind.call(as_tensor(image, "cpu")[None], [values])
            except (RuntimeError, ValueError, TypeError):
                continue
        assert written.total <= MOST_WRITTEN * (n_values + 1000), values
        assert written.largest <= LARGEST + 100 * n_values, values


def test_thresholds_are_kept_for_every_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thresholds, "BATCHES", ((1, 8), (2, 16)))
    for exactness in CONTRACTS:
        assert set(thresholds.CPU[exactness]) <= set(operations_of(exactness))
        for name in operations_of(exactness):
            assert thresholds.measure(name, torch.device("cpu"), exactness) in {64, 512, float("inf")}
    assert thresholds.threshold("orient", torch.device("cpu"), "exact") == float("inf")
    assert thresholds.threshold("ImageFilter.MaxFilter", torch.device("cpu"), "exact") < 1 << 20


def test_an_accelerator_is_measured_once_for_each_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def measured(name: str, *_: object) -> float:
        asked.append(name)
        return 100.0

    monkeypatch.setattr(thresholds, "measure", measured)
    thresholds.threshold.cache_clear()
    names = ["orient", "orient", "cv2.blur"]
    assert [thresholds.threshold(name, torch.device("meta"), "close") for name in names] == [100, 100, 100]
    thresholds.threshold.cache_clear()
    assert asked == ["orient", "cv2.blur"]

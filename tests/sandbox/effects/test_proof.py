"""A claim earns what its pixels prove, and nothing for its words; a bad claim is dropped and the result stays."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageFilter

from sandbox import Affine, Limits, ToolExecutor, ToolRequest, orient, orientation_frame
from sandbox.effects.credit import NO_EFFECT, UNKNOWN, Effects
from sandbox.effects.proof import find_credit, read_claim
from tests.sandbox.effects.matrix import box_of, confined_executor, scenes
from tests.sandbox.machine import need, noise

CROP = "v1 = image.crop((80, 42, 240, 148))\n"


def china() -> Image.Image:
    return scenes()["china"]


def credit(result: Image.Image, claim: str, image: Image.Image | None = None) -> Effects:
    return find_credit([image or china()], 0, result, claim)


@pytest.fixture(scope="module")
def confined() -> Iterator[ToolExecutor]:
    need()
    with confined_executor() as made:
        yield made


def test_a_claim_that_gives_the_pixels_is_what_is_credited() -> None:
    result = china().crop((80, 42, 240, 148)).resize((320, 212))
    claim = CROP + "v2 = v1.resize((320, 212))\nresult = v2"
    assert credit(result, claim) == Effects(("crop", "resize"), "identity", Affine(0.5, 0, 80, 0, 0.5, 42))


@pytest.mark.parametrize("size", [(320, 212), (900, 700)], ids=["small", "large"])
def test_a_part_that_is_another_ends_a_proof(size: tuple[int, int]) -> None:
    result = china().crop((80, 42, 240, 148)).resize(size)
    claim = CROP + f"v2 = v1.resize({size})\nresult = v2"
    assert credit(result, claim).tools == ("crop", "resize")
    result.paste(noise(size[0] // 2, size[1]), (size[0] // 3, 0))
    assert credit(result, claim) == UNKNOWN


LIES = {
    "a turn of what stayed": "v1 = image.transpose(2)\nresult = v1",
    "a crop of what stayed": CROP + "result = v1",
    "another image": "result = images[1]",
    "there and back": "v1 = image.transpose(2)\nv2 = v1.transpose(4)\nresult = v2",
    "a border that was cut off": "v1 = ImageOps.expand(image, 9)\nv2 = v1.crop((9, 9, 329, 222))\nresult = v2",
    "inverted twice": "v1 = ImageOps.invert(image)\nv2 = ImageOps.invert(v1)\nresult = v2",
    "twice as large and back": "v1 = image.resize((640, 426), 0)\nv2 = v1.resize((320, 213), 0)\nresult = v2",
    "drawn with nothing": "v1 = ImageDraw.Draw(image)\nv1.rectangle((5, 5, 9, 9))\nresult = image",
}


@pytest.mark.parametrize("claim", LIES.values(), ids=LIES.keys())
def test_lies_about_what_stayed_earn_nothing(claim: str) -> None:
    assert credit(china(), claim) == NO_EFFECT


@pytest.mark.parametrize("claim", LIES.values(), ids=LIES.keys())
def test_lies_about_a_turn_earn_the_turn(claim: str) -> None:
    turn = Effects(("rotate_180",), "rotate_180", orientation_frame("rotate_180", china().size))
    assert credit(orient(china(), "rotate_180"), claim.replace("result", "v9")) == turn
    undone = claim.rsplit("\n", 1)
    honest = f"{undone[0]}\nv8 = {undone[-1].removeprefix('result = ')}.transpose(3)\nresult = v8"
    assert credit(orient(china(), "rotate_180"), honest) in (turn, UNKNOWN)


BAD = {
    "nothing": "",
    "no Python": "result = (",
    "huge": "result = image" + " " * 5000,
    "many lines": "v1 = image.copy()\n" * 65 + "result = v1",
    "cyclic": "v1 = v2.copy()\nv2 = v1.copy()\nresult = v2",
    "itself": "v1 = v1\nresult = v1",
    "an unknown operation": "v1 = image.paint()\nresult = v1",
    "another module": "v1 = os.system('true')\nresult = v1",
    "out of range": "v1 = image.resize((10000000, 10000000))\nresult = v1",
    "a negative size": "v1 = image.resize((-5, 3))\nresult = v1",
    "not a number": "v1 = image.rotate(nan)\nresult = v1",
    "no such image": "v1 = images[7].copy()\nresult = v1",
    "a loop": "for i in range(99): image = image.copy()\nresult = image",
    "a comprehension": "result = [image for i in range(9)][0]",
    "a function": "f = lambda x: x\nresult = f(image)",
    "an import": "import os\nresult = image",
    "several statements": "v1 = image.copy(); result = v1",
    "a power": "v1 = image.rotate(9**9**9)\nresult = v1",
    "other letters": "v\N{SUPERSCRIPT ONE} = image.copy()\nresult = image",
    "bytes": "\x00\x01result",
    "nested": "result = " + "(" * 900 + "image" + ")" * 900,
}


@pytest.mark.parametrize("claim", BAD.values(), ids=BAD.keys())
def test_a_bad_claim_is_dropped_and_the_pixels_decide(claim: str) -> None:
    turned = orient(china(), "rotate_90")
    expected = Effects(("rotate_90",), "rotate_90", orientation_frame("rotate_90", china().size))
    assert credit(turned, claim) == expected  # the first call also loads libraries
    started = time.process_time()
    credit(turned, claim)
    assert time.process_time() - started < 0.5


@given(st.text(st.sampled_from("v12 =image.crop()[],:'\"\n-0x9"), max_size=200))
def test_any_text_is_read_or_dropped(text: str) -> None:
    read_claim(text, ((30, 20), (9, 9)), 0)
    assert find_credit([noise(30, 20)], 0, noise(30, 20), text) == NO_EFFECT


def test_a_claim_that_leads_halfway_helps_the_search() -> None:
    cut = china().crop((80, 42, 240, 148))
    changed = Image.fromarray((np.asarray(cut).astype(float) * 0.7 + 20).astype(np.uint8))
    assert credit(changed, "result = image") == UNKNOWN
    found = credit(changed, CROP + "result = v1")
    assert found == Effects(("crop", "color"), "identity", Affine(c=80, f=42))
    unread = credit(
        changed, CROP + "v2 = np.array(v1)\nv3 = v2.astype(np.float32)\nv4 = np.clip(v3, 0, 255)\nresult = v4"
    )
    assert unread == found
    assert credit(noise(160, 106), CROP + "result = v1") == UNKNOWN


def test_a_claim_that_leads_to_something_alike_earns_nothing() -> None:
    cut = china().crop((80, 42, 240, 148))
    one_pixel_off = Image.fromarray((np.asarray(cut).astype(float) * 0.7 + 20).astype(np.uint8))
    one_pixel_off.putpixel((9, 9), (255, 255, 255))
    for alike in (cut.filter(ImageFilter.GaussianBlur(1)), china().crop((81, 42, 241, 148)), one_pixel_off):
        grays = np.stack([np.asarray(image.convert("L")).ravel() for image in (cut, alike)])
        assert np.corrcoef(grays)[0, 1] > 0.9
        assert "color" not in (found := credit(alike, CROP + "v2 = v1.unknown()\nresult = v2")).tools
        assert found in (UNKNOWN, credit(alike, ""))


def test_a_flat_result_is_no_table_of_anything() -> None:
    assert credit(Image.new("RGB", (160, 106), (9, 9, 9)), CROP + "result = v1.unknown()") == UNKNOWN


FORGED = """
from sandbox.confined import call_log
call_log.LOG.end = lambda result: {claim}
"""


def test_a_forged_log_earns_what_the_pixels_earn(confined: ToolExecutor) -> None:
    left, top, right, bottom = box_of(china().size)
    cut = f"image.crop(({left}, {top}, {right}, {bottom}))"
    for claim in (
        repr(f"v1 = {cut}\nresult = v1"),
        "'v1 = image.rotate(180)\\nresult = v1'",
        "'x' * 9000",
        "'\\udcff'",
    ):
        (stays,) = confined.execute([ToolRequest(FORGED.format(claim=claim) + "result = image", [china()])])
        assert (stays.status, stays.tools, stays.orientation) == ("ok", (), "identity")
        (turned,) = confined.execute(
            [ToolRequest(FORGED.format(claim=claim) + "result = image.rotate(180)", [china()])]
        )
        assert (turned.status, turned.tools) == ("ok", ("rotate_180",))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(words=st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=60))
def test_credit_is_unchanged_by_what_is_written(words: str, confined: ToolExecutor) -> None:
    plain = "result = ImageEnhance.Contrast(image.crop((9, 9, 90, 80))).enhance(1.5)"
    said = f"# {words} image.rotate(90)\n{words!r}\nnote = 'I turned it by 180: image.rotate(180)'\n{plain}"
    seen = confined.execute([ToolRequest(code, [china()]) for code in (plain, said)])
    assert seen[0].tools == seen[1].tools == ("crop", "contrast")
    assert seen[0].frame == seen[1].frame


ENDLESS = (
    "v1 = image.resize((1, 1))\nv2 = np.array(v1)\nM = np.array([[1.0, 0, 7.5], [0, 1, -3]])\n"
    "v3 = cv2.warpAffine(v2, M, (9, 9), flags=2, borderMode=4)\nresult = v3"
)


def test_endless_claims_cost_the_trainer_one_deadline_in_all() -> None:
    need()
    claim = read_claim(ENDLESS, (china().size,), 0)
    assert claim is not None
    assert claim.is_whole
    forged = ToolRequest(FORGED.format(claim=repr(ENDLESS)) + "result = Image.new('RGB', (9, 9))", [china()])
    honest = ToolRequest("def f(): return image.filter(ImageFilter.MedianFilter(3))\nresult = f()", [china()])
    with ToolExecutor(lane="confined", workers=2, limits=Limits(wall_s=1)) as executor:
        executor.execute([honest])
        started = time.perf_counter()
        seen = executor.execute([forged] * 12)
        assert time.perf_counter() - started < 10  # each would have taken a second plus the start of its worker
        assert {(each.status, each.tools) for each in seen} == {("ok", ())}
        assert executor.execute([honest])[0].tools == ("median",)


INVISIBLE = [
    "result = image.transform(image.size, Image.AFFINE, (1, 0, 0, 0, 1, 0))",
    "result = Image.fromarray(cv2.warpAffine(np.array(image), np.float32([[1, 0, 0], [0, 1, 0]]), image.size))",
    "result = image.rotate(0.01)",
    "canvas = Image.new('RGB', image.size)\ncanvas.paste(image, (0, 0))\nresult = canvas",
    "result = image.resize(image.size, box=(0, 0, image.width - 0.001, image.height))",
    "result = ImageOps.expand(image, 0)",
    "result = Image.fromarray(cv2.copyMakeBorder(np.array(image), 0, 0, 0, 0, cv2.BORDER_CONSTANT))",
    "result = image.filter(ImageFilter.GaussianBlur(0))",
    "result = Image.fromarray(cv2.convertScaleAbs(np.array(image), alpha=1, beta=0))",
]


@pytest.mark.parametrize("code", INVISIBLE)
@pytest.mark.parametrize("lane", ["auto", "confined"])
def test_identical_pixels_earn_nothing_in_any_lane(lane: str, code: str, confined: ToolExecutor) -> None:
    with ToolExecutor(lane="auto", workers=1, limits=Limits(wall_s=20)) as auto:
        (seen,) = (auto if lane == "auto" else confined).execute([ToolRequest(code, [china()])])
    assert seen.status == "ok", seen.text
    assert (seen.tools, seen.orientation, seen.frame) == ((), "identity", Affine())


def test_a_resize_by_a_box_is_the_crop_that_it_is(confined: ToolExecutor) -> None:
    code = "result = image.resize((160, 106), box=(80, 42, 240, 148))"
    for executor in (confined, ToolExecutor(lane="pillow")):
        (seen,) = executor.execute([ToolRequest(code, [china()])])
        assert (seen.tools, seen.frame) == (("crop",), Affine(c=80, f=42))


def test_a_result_that_is_right_at_known_places_only_is_no_turn() -> None:
    image = noise(1000, 800)
    # These places were public once.
    ys, xs = (np.random.default_rng(20251203).random((4096, 2)) * (1000, 800)).astype(int).T
    other = np.asarray(ImageEnhance.Brightness(noise(800, 1000, 1)).enhance(0.5)).copy()
    other[ys, xs] = np.asarray(orient(image, "rotate_90"))[ys, xs]
    assert credit(Image.fromarray(other), "v1 = image.transpose(2)\nresult = v1", image) == UNKNOWN


@pytest.mark.parametrize("n_colors", [2, 40])
def test_a_palindrome_does_not_hold_the_search(n_colors: int) -> None:
    quarter = np.random.default_rng(0).integers(0, n_colors, (2300, 3250, 3), dtype=np.uint8)
    half = np.concatenate([quarter, quarter[:, ::-1]], 1)
    page = Image.fromarray(np.concatenate([half, half[::-1]]))
    part = page.crop((0, 0, page.width - 2, page.height - 2))
    started = time.process_time()
    credit(part, "", page)
    assert time.process_time() - started < 1.5  # most of the time goes into arrays of 60 million pixels

"""The last turn or resize of code runs once, in the trainer, and pixels, texts and errors do not show it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from sandbox import Limits, ToolExecutor, ToolRequest
from sandbox.lanes.confined import ConfinedLane
from sandbox.types import Fresh
from tests.sandbox.attack_classes import RESTS
from tests.sandbox.handover_attacks import HANDOVER_ATTACKS
from tests.sandbox.machine import need, noise

IMAGE = noise(320, 280)
CUT = "image.crop((20, 30, 220, 230))"


@pytest.fixture(scope="module")
def lane() -> Iterator[ConfinedLane]:
    need()
    made = ConfinedLane(1, Limits(wall_s=20, memory_mb=512), "syscall", "episode")
    yield made
    made.close()


@pytest.fixture(scope="module")
def executor() -> Iterator[ToolExecutor]:
    need()
    with ToolExecutor(lane="confined", workers=1, limits=Limits(wall_s=20)) as made:
        yield made


def here(code: str) -> Image.Image:
    """The result of our own snippet in this process."""
    names: dict[str, Any] = {"image": IMAGE.copy(), "Image": Image, "np": np, "cv2": cv2, "ImageDraw": ImageDraw}
    names |= {"images": [names["image"]]}
    exec(code, names)
    return names["result"]  # type: ignore[no-any-return]


LEFT = {
    "a turn of the image": "result = image.rotate(90, expand=True)",
    "a half turn": "result = image.rotate(-180.0)",
    "a mirrored image": "result = image.transpose(Image.Transpose.TRANSVERSE)",
    "crop and zoom": f"result = {CUT}.resize((400, 410), Image.LANCZOS)",
    "the usual method": f"result = {CUT}.resize([400, 410])",
    "a part by a box": "result = image.resize((300, 300), box=(0.5, 0.25, 300, 200.75))",
    "by name": f"result = {CUT}.resize(size=(400, 410), resample=Image.BOX)",
    "what was changed": "ImageDraw.Draw(image).line((5, 5, 90, 90), fill='red')\nresult = image.resize((600, 500))",
    "of arrays": "a = np.array(image)\na[9:99] = 0\nresult = Image.fromarray(a).resize((600, 500))",
    "not what changed since": "c = image.copy()\nresult = c.resize((600, 500))\nc.paste((0, 0, 0), (0, 0, 99, 99))",
    "not what is written to since": f"c = {CUT}\nresult = c.resize((600, 500))\np = c.load()\np[3, 3] = (0, 0, 0)",
    "not the image that changed": "result = image.resize((600, 500))\nimage.paste((0, 0, 0), (0, 0, 99, 99))",
    "in a function": "def f(x): return x.transpose(0)\nresult = f(image)",
}


@pytest.mark.parametrize("code", LEFT.values(), ids=LEFT.keys())
def test_a_call_that_nobody_looks_at_is_left_to_the_trainer(code: str, lane: ConfinedLane) -> None:
    (seen,) = lane.run([ToolRequest(code, [IMAGE])])
    assert seen.last is not None, seen.text
    assert seen.image is not None
    assert seen.image.tobytes() == here(code).tobytes()


RUN = {
    "a small one": "result = image.resize((90, 90))",
    "one that was looked at": f"result = {CUT}.resize((600, 500))\nprint(result.getpixel((9, 9)))",
    "one that was changed": f"result = {CUT}.resize((600, 500))\nresult.putpixel((9, 9), (1, 2, 3))",
    "one that was written to": "result = image.transpose(2)\nresult.load()[9, 9] = (1, 2, 3)",
    "a copy that was changed": "import copy\nz = image.rotate(180)\nresult = copy.copy(z)\nresult.putpixel((1, 1), 0)",
    "an array": "result = Image.fromarray(np.array(image.resize((600, 500)))[::-1])",
    "in steps": "result = image.resize((600, 500)).convert('L').resize((500, 500)).convert('RGB')",
    "beyond the bound": "result = image.resize((3000, 2900))",
    "a gray one": "result = image.convert('L').resize((600, 500)).convert('RGB')",
    "in place": "result = image.rotate(180)\nresult.thumbnail((99, 99))",
    "one that was closed": "z = image.rotate(180)\nresult = z.copy()\nz.close()",
}


@pytest.mark.parametrize("code", RUN.values(), ids=RUN.keys())
def test_other_calls_run_in_the_worker(code: str, lane: ConfinedLane) -> None:
    (seen,) = lane.run([ToolRequest(code, [IMAGE])])
    assert seen.last is None
    assert seen.image is not None, seen.text
    assert seen.image.tobytes() == here(code).tobytes()


WRONG = [
    "result = image.resize((600, -4))",
    "result = image.resize((600, 500), 77)",
    "result = image.resize((600, 500), 1, (0, 0, 999, 9))",
    "result = image.resize((600, 500), 1, (9, 9, 2, 2))",
    "result = image.resize()",
    "result = image.resize((600, 500), 1, None, None, 5)",
    "result = image.transpose(9)",
    "result = image.transpose()",
    "result = image.rotate('a')",
]


@pytest.mark.parametrize("code", WRONG)
def test_wrong_arguments_fail_where_they_stand(code: str, lane: ConfinedLane) -> None:
    with pytest.raises((TypeError, ValueError)) as raised:
        here(code)
    (seen,) = lane.run([ToolRequest(f"x = 1\n{code}", [IMAGE])])
    assert seen.status == "error"
    assert f"{type(raised.value).__name__}: {raised.value}" in seen.text
    assert "line 2" in seen.text


def test_variables_hold_what_was_postponed_and_no_input(lane: ConfinedLane) -> None:
    kept = "z = image.resize((600, 500))\ny = image.crop((0, 0, 200, 200)).resize((400, 400))\nresult = z"
    for code in (kept, "result = z", "y.putpixel((0, 0), (0, 0, 0))\nresult = z"):
        (seen,) = lane.run([ToolRequest(code, [IMAGE], episode="keeps")])
        assert seen.image is not None
        assert seen.image.tobytes() == IMAGE.resize((600, 500)).tobytes()
    assert lane._pool._kept["keeps"].inputs is not None, "the file of inputs was given up"


@pytest.mark.parametrize("place", [(0, 0), (301, 222), (599, 499)])
def test_one_pixel_ends_the_proof(place: tuple[int, int], executor: ToolExecutor) -> None:
    zoom = f"result = {CUT}.resize((600, 500))\n"
    (true,) = executor.execute([ToolRequest(zoom, [IMAGE])])
    assert true.tools == ("crop", "resize")
    (changed,) = executor.execute([ToolRequest(f"{zoom}result.putpixel({place}, (1, 2, 3))", [IMAGE])])
    assert (changed.tools, changed.orientation) == ((), None)
    before = f"image.putpixel(({place[0] // 3}, {place[1] // 3}), (1, 2, 3))\nresult = image.resize((600, 500))"
    (found,) = executor.execute([ToolRequest(before, [IMAGE])])
    assert "crop" not in found.tools


def test_a_batch_of_calls_that_are_left_keeps_its_budget() -> None:
    need()
    limits = Limits(wall_s=20, batch_mb=4)
    with ToolExecutor(lane="confined", workers=1, limits=limits, fresh="episode") as executor:
        seen = executor.execute([ToolRequest("result = image.resize((900, 500))", [IMAGE], episode="a")] * 4)
    assert [(each.status, "batch_mb" in each.text) for each in seen] == [("ok", False)] * 2 + [("error", True)] * 2


@pytest.mark.parametrize("start", range(0, len(RESTS), 20))
def test_a_forged_call_is_a_crash_or_harmless(start: int, executor: ToolExecutor) -> None:
    started = time.process_time()
    honest = ToolRequest(LEFT["crop and zoom"], [IMAGE])
    seen = executor.execute([honest, *(ToolRequest(code, [IMAGE]) for code in RESTS[start : start + 20])])
    assert time.process_time() - started < 4
    assert seen[0].tools == ("crop", "resize"), seen[0]
    for each in seen:
        assert each.status in ("ok", "error", "crash")
        assert each.image is None or each.image.width * each.image.height <= 32e6
    (after,) = executor.execute([ToolRequest(LEFT["crop and zoom"], [IMAGE])])
    assert after.tools == ("crop", "resize")
    assert after.image is not None
    assert after.image.tobytes() == here(LEFT["crop and zoom"]).tobytes()


#: Tools of operations that no attack did, unless its last line has `image.crop`.
NOT_DONE = {"crop", "median", "draw", "flip_vertical", "bilateral", "denoise"}


@pytest.mark.parametrize("fresh", ["call", "episode"])
def test_nobody_gains_by_what_is_handed_over(fresh: Fresh) -> None:
    need()
    code = LEFT["crop and zoom"]
    honest, expected, cpu = ToolRequest(code, [IMAGE], episode="honest"), here(code).tobytes(), time.process_time()
    with ToolExecutor(lane="confined", workers=2, limits=Limits(wall_s=3), fresh=fresh) as executor:
        for start in range(0, len(HANDOVER_ATTACKS), 8):
            attacks = HANDOVER_ATTACKS[start : start + 8]
            requests = [ToolRequest(attack, [IMAGE, noise(700, 600)], episode=attack) for attack in attacks]
            *seen, check = executor.execute([*requests, honest])
            assert (check.status, check.tools) == ("ok", ("crop", "resize")), check
            assert check.image is not None
            assert check.image.tobytes() == expected
            for attack, each in zip(attacks, seen, strict=True):
                assert not NOT_DONE & set(each.tools) or "image.crop" in attack.splitlines()[-1], (attack, each)
        again = executor.execute([ToolRequest("result = image.transpose(2)", [IMAGE], episode=a) for a in attacks])
    turned = IMAGE.transpose(Image.Transpose.ROTATE_90).tobytes()
    assert all(each.image.tobytes() == turned for each in again if each.image is not None)
    assert time.process_time() - cpu < 20

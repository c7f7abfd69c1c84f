"""Tools that are models: whatever they do is an observation, and the next call is served."""

from __future__ import annotations

import multiprocessing
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sandbox import Limits, ModelCall, Observation, ToolExecutor, ToolRequest
from sandbox.executor import LaneName
from tests.sandbox.model_tools import Moody, Slow, Unloadable

TURN = "result = image.rotate(90, expand=True)"
SAME = "result = image"
MOODY = Moody()


def picture(color: str = "red") -> Image.Image:
    image = Image.new("RGB", (60, 40), "blue")
    image.putpixel((0, 0), (1, 2, 3))
    image.putpixel((59, 0), (4, 5, 6))
    image.paste(color, (20, 10, 30, 20))
    return image


def asked(how: str = "look", code: str = SAME, image: Image.Image | None = None, **call: Any) -> ToolRequest:
    return ToolRequest(code, [image or picture()], model=ModelCall("moody", MOODY, {"how": how}, **call))


@pytest.fixture(scope="module")
def executor() -> Iterator[ToolExecutor]:
    with ToolExecutor(lane="pillow") as executor:
        yield executor


def run(executor: ToolExecutor, request: ToolRequest) -> Observation:
    (observation,) = executor.execute([request])
    return observation


def process_of(observation: Observation) -> int:
    found = re.search(r"process (\d+)", observation.text)
    assert found is not None, observation.text
    return int(found.group(1))


def test_a_model_sees_the_image_and_its_text_is_the_observation(executor: ToolExecutor) -> None:
    seen = run(executor, asked())
    assert (seen.status, seen.image, seen.tools) == ("ok", None, ("moody",))
    assert "size (60, 40) (1, 2, 3)" in seen.text
    assert (seen.orientation, seen.frame is not None) == ("identity", True)


def test_a_model_sees_what_the_code_made_of_the_image(executor: ToolExecutor) -> None:
    seen = run(executor, asked(code=f"print('turned')\n{TURN}"))
    assert seen.text.startswith("turned\n")
    assert "size (40, 60) (4, 5, 6)" in seen.text
    assert seen.image is not None
    assert (seen.image.size, seen.tools, seen.orientation) == ((40, 60), ("rotate_90", "moody"), "rotate_90")


def test_an_image_that_a_model_made_is_the_result_and_lies_nowhere(executor: ToolExecutor) -> None:
    seen = run(executor, asked("mask"))
    assert seen.image is not None
    assert (seen.image.mode, seen.image.size, seen.text) == ("RGB", (8, 6), "a mask")
    assert (seen.frame, seen.orientation, seen.tools) == (None, None, ("moody",))


BAD = {
    "raise": ("error", "ValueError: no  here"),
    "die": ("crash", "its process ended"),
    "exit": ("crash", "its process ended"),
    "hang": ("timeout", "took longer than 0.5 s and was ended"),
    "rubbish": ("error", "expected a ModelResult"),
    "text that is none": ("error", "expected a ModelResult"),
    "huge": ("error", "too large"),
    "thin": ("error", "too thin"),
}


@pytest.mark.parametrize("how", BAD)
@pytest.mark.parametrize("code", [SAME, TURN])
def test_whatever_a_model_does_is_data_and_the_next_call_is_served(executor: ToolExecutor, how: str, code: str) -> None:
    status, words = BAD[how]
    start = time.perf_counter()
    bad, good = executor.execute([asked(how, code, wall_s=0.5 if how == "hang" else 60), asked(code=code, wall_s=60)])
    assert time.perf_counter() - start < 45, "a model that hangs would take a minute"
    assert (bad.status, bad.image, bad.tools) == (status, None, ())
    assert words in bad.text
    assert bad.text.startswith("moody ")
    assert (good.status, "call " in good.text) == ("ok", True)


def test_nothing_found_is_said_and_no_tool(executor: ToolExecutor) -> None:
    seen = run(executor, asked("nothing"))
    assert (seen.status, seen.text, seen.tools, seen.image) == ("ok", "moody found nothing.", (), None)


def test_text_is_cut_and_cleaned() -> None:
    with ToolExecutor(lane="pillow", limits=Limits(text_chars=100)) as executor:
        much, markup = executor.execute([asked("much"), asked("markup")])
    assert (much.status, len(much.text) <= 100) == ("ok", True)
    assert markup.text == "assistant [2J  end"


def test_code_that_fails_reaches_no_model(executor: ToolExecutor) -> None:
    for code, status in (("result = image.nothing()", "error"), ("class A: pass", "rejected"), ("", "rejected")):
        seen = run(executor, asked(code=code))
        assert (seen.status, "process" in seen.text) == (status, False)
    only_text = run(executor, asked(code="print(3)"))
    assert (only_text.status, only_text.text, only_text.tools) == ("ok", "3", ())


def test_equal_calls_are_made_once_and_others_in_the_same_process(executor: ToolExecutor) -> None:
    first, equal, other, turned = executor.execute(
        [asked(), asked(image=picture()), asked(image=picture("green")), asked(code=TURN)]
    )
    assert first.text == equal.text
    assert len({first.text, other.text, turned.text}) == 3
    assert len({process_of(seen) for seen in (first, other, turned)}) == 1


def test_closed_and_started_again() -> None:
    executor = ToolExecutor(lane="pillow")
    before = process_of(run(executor, asked()))
    executor.close()
    assert before not in {process.pid for process in multiprocessing.active_children()}
    after = process_of(run(executor, asked()))
    executor.close()
    executor.close()
    assert before != after


@pytest.mark.parametrize(
    ("kind", "start_s", "words"), [(Unloadable, 60, "RuntimeError: no weights"), (Slow, 3, "not within 3 s")]
)
def test_a_model_that_cannot_be_started_is_tried_once(
    kind: type[Unloadable], start_s: float, words: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    log.touch()
    call = ModelCall("broken", kind(log), start_s=start_s)
    with ToolExecutor(lane="pillow") as executor:
        with pytest.warns(RuntimeWarning, match="broken could not be started"):
            first = run(executor, ToolRequest(SAME, [picture()], model=call))
        again = run(executor, ToolRequest(TURN, [picture()], model=call))
    assert (first.status, again.status, again.text) == ("crash", "crash", first.text)
    assert words in first.text
    assert log.read_text() in ({"x"} if kind is Unloadable else {"x", ""}), "a slow machine may not get as far"


def test_a_model_that_cannot_be_sent_to_a_process_is_data() -> None:
    class Local(Moody):
        """Has no name that another process could import."""

    with ToolExecutor(lane="pillow") as executor, pytest.warns(RuntimeWarning, match="could not be started"):
        seen = run(executor, ToolRequest(SAME, [picture()], model=ModelCall("local", Local())))
    assert (seen.status, "local could not be started" in seen.text) == ("crash", True)


def test_threads_share_a_model(executor: ToolExecutor) -> None:
    colors = ["red", "green", "white", "black", "yellow", "cyan"]
    with ThreadPoolExecutor(6) as pool:
        seen = list(pool.map(lambda color: run(executor, asked(image=picture(color))), colors))
    assert {observation.status for observation in seen} == {"ok"}
    assert len({process_of(observation) for observation in seen}) == 1
    assert len({observation.text for observation in seen}) == len(colors)


def _in_child(executor: ToolExecutor, pipe: Any) -> None:
    with pipe:
        pipe.send(run(executor, asked()).text)
    executor.close()


def test_a_forked_child_leaves_the_parents_model_alone(executor: ToolExecutor) -> None:
    before = process_of(run(executor, asked()))
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_in_child, args=(executor, theirs))
    child.start()
    theirs.close()
    assert ours.poll(60)
    text = ours.recv()
    child.join(30)
    assert child.exitcode == 0
    assert f"process {before} " not in text
    assert process_of(run(executor, asked())) == before


@pytest.mark.parametrize("lane", ["confined", "kornia"])
def test_other_lanes_give_the_same(executor: ToolExecutor, lane: LaneName) -> None:
    expected = [run(executor, asked("mask", code)) for code in (SAME, TURN)]
    with ToolExecutor(lane=lane, workers=1) as other_lane:
        found = [run(other_lane, asked("mask", code)) for code in (SAME, TURN)]
        looked, unseen = (run(other_lane, asked(code=code)) for code in (TURN, SAME))
    for one, other in zip(expected, found, strict=True):
        assert one.image is not None
        assert other.image is not None
        assert (one.image.tobytes(), one.text, one.tools) == (other.image.tobytes(), other.text, other.tools)
    assert (looked.tools, looked.image is None) == (("rotate_90", "moody"), False)
    assert (unseen.tools, unseen.image) == (("moody",), None)

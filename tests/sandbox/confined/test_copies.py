"""Copies of results: correct while anything refers to them; then their memory is reused, and idle memory is bounded."""

from __future__ import annotations

import threading

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sandbox.confined import copies
from sandbox.confined.copies import Copies
from sandbox.images import view


def address(copy: memoryview) -> int:
    return int(np.frombuffer(copy, np.uint8).__array_interface__["data"][0])


def idle_bytes(made: Copies) -> int:
    return sum(length * len(blocks) for length, blocks in made._idle.items())


@given(st.lists(st.tuples(st.sampled_from([1, 65_536, 200_704, 300_000, 2_200_000]), st.booleans()), max_size=30))
def test_what_is_held_keeps_its_bytes(steps: list[tuple[int, bool]]) -> None:
    made, held = Copies(), []
    for number, (n_bytes, is_kept) in enumerate(steps):
        source = bytes([number]) * n_bytes
        copy = made.of(memoryview(source))
        assert copy == source
        if is_kept:
            held.append((copy[n_bytes // 2 :], number))
        del copy
    for part, number in held:
        assert bytes(part) == bytes([number]) * len(part)


def test_memory_is_used_again_when_the_last_view_is_gone() -> None:
    made = Copies()
    copy = made.of(memoryview(bytes(4 * 300 * 200)))
    first = address(copy)
    image = view(copy, (300, 200))
    del copy
    part = image.crop((0, 0, 300, 200))  # a copy: it does not hold the memory
    other = made.of(memoryview(bytes(4 * 300 * 200)))
    assert address(other) != first  # the image still holds the memory
    del image
    again = made.of(memoryview(b"\x07" * 4 * 300 * 200))
    assert address(again) == first
    assert part.getextrema() == ((0, 0),) * 3


def test_idle_memory_is_bounded() -> None:
    made = Copies()
    held = [made.of(memoryview(bytes(copies._MAX_IDLE // 4 + 1))) for _ in range(6)]
    assert idle_bytes(made) == 0
    held.clear()
    assert 0 < idle_bytes(made) <= copies._MAX_IDLE


def test_images_may_be_dropped_in_any_thread() -> None:
    made = Copies()
    wrong: list[int] = []

    def use(number: int) -> None:
        for _ in range(200):
            image = view(made.of(memoryview(bytes([number]) * 4 * 200 * 200)), (200, 200))
            if image.getextrema() != ((number, number),) * 3 or not isinstance(image, Image.Image):
                wrong.append(number)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong

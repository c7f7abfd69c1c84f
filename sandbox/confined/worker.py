"""A confined worker: takes a request, runs its code, sends one reply.

Everything in this process belongs to the code once the code has run. The confinement is the kernel's; nothing in this
file is a guard. The trainer checks every byte that comes out.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import io
import linecache
import math
import mmap
import os
import random
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import PIL
from numpy.random import bit_generator
from PIL import Image, ImageChops, ImageColor, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps, ImageStat

from sandbox.confined import call_log, postponed, wire, wrappers
from sandbox.confined.results import ResultError, to_image
from sandbox.images import copy_into, view
from sandbox.messages import NO_RESULT, RESULT_NAMES, describe_error, kind_of, too_large

_FILE_NAME = "<code>"
_OF_CALL = {*RESULT_NAMES, "images", "draw"}
_POPULATE_READ, _POPULATE_WRITE = 22, 23
#: Reference count of the inputs' memory while no image in it is in use: the attribute, and the call that counts.
_REFERENCES = 2
_ENTROPY = random.Random(0)  # noqa: S311 - it replaces entropy on purpose
_PROVIDED: dict[str, Any] = {
    "PIL": PIL,
    "Image": Image,
    "ImageChops": ImageChops,
    "ImageColor": ImageColor,
    "ImageDraw": ImageDraw,
    "ImageEnhance": ImageEnhance,
    "ImageFilter": ImageFilter,
    "ImageFont": ImageFont,
    "ImageOps": ImageOps,
    "ImageStat": ImageStat,
    "cv2": cv2,
    "math": math,
    "np": np,
    "numpy": np,
}


class CappedText(io.TextIOBase):
    """Collects the printed text, up to a number of characters; the rest is dropped."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._parts: list[str] = []

    def writable(self) -> bool:
        """Return True, which `print` needs."""
        return True

    def write(self, text: str) -> int:
        """Keep as much of the text as fits."""
        if self._left > 0:
            self._parts.append(text[: self._left])
            self._left -= len(text)
        return len(text)

    def text(self) -> str:
        """All kept text."""
        return "".join(self._parts)


@dataclass
class Request:
    """A request as it came over the socket, with its images mapped."""

    nonce: int
    payload: bytes
    images: list[Image.Image]
    chosen: int
    text_chars: int
    capacity: int


#: Runs a request with the names that persist between requests.
Run = Callable[[Request, dict[str, Any]], wire.Made]


class SharedFiles:
    """The memory files that this worker shares with the trainer: one for inputs, one for results."""

    def __init__(self) -> None:
        self.inputs: mmap.mmap | None = None
        self._populated = 0
        self._output = -1
        self._written = 0
        self._results: mmap.mmap | None = None

    def take(self, descriptors: list[int], *, has_inputs: bool, has_output: bool) -> None:
        """Use these files from now on; images of an earlier file live as long as variables hold them."""
        if has_inputs:
            self._populated = 0
            self.inputs = mmap.mmap(descriptors[0], _length(descriptors[0]), prot=mmap.PROT_READ)
            os.close(descriptors[0])
        if has_output:
            self._output = descriptors[-1]

    def images(self, places: list[tuple[int, int, int]]) -> list[Image.Image]:
        """The images at (width, height, place)."""
        if self.inputs is None:
            return []
        end = places[-1][2] + 4 * places[-1][0] * places[-1][1]
        if end > self._populated:
            with contextlib.suppress(OSError):
                self.inputs.madvise(_POPULATE_READ, 0, end)
            self._populated = end
        bytes_ = memoryview(self.inputs)
        return [view(bytes_[place : place + 4 * width * height], (width, height)) for width, height, place in places]

    def holds_images(self) -> bool:
        """Whether anything still holds an image of the inputs."""
        return self.inputs is not None and sys.getrefcount(self.inputs) > _REFERENCES

    def write(self, image: Image.Image) -> None:
        """Write a result to the output file."""
        if self._results is None:
            self._results = mmap.mmap(self._output, _length(self._output))
            os.close(self._output)
        n_bytes = 4 * image.width * image.height
        if n_bytes > self._written:
            with contextlib.suppress(OSError):
                self._results.madvise(_POPULATE_WRITE, 0, n_bytes)
            self._written = n_bytes
        copy_into(memoryview(self._results)[:n_bytes], image)


def _length(descriptor: int) -> int:
    return os.lseek(descriptor, 0, os.SEEK_END)


def serve(channel: socket.socket, run_request: Run) -> None:
    """Answer requests until the trainer hangs up. Names persist between requests; images and results do not."""
    names: dict[str, Any] = {}
    memory = SharedFiles()
    channel.send(wire.HELLO)
    while _answer(channel, memory, names, run_request):
        pass


def _answer(channel: socket.socket, memory: SharedFiles, names: dict[str, Any], run_request: Run) -> bool:
    """Answer one request; False if the trainer has hung up."""
    request = _receive(channel, memory)
    if request is None:
        return False
    made = run_request(request, names)
    if made.image is not None:
        memory.write(made.image)
    nonce = request.nonce
    del request.images[:]
    forget_call(names)
    message = wire.pack_reply(nonce, made)
    del made
    postponed.end()
    if memory.holds_images():
        message = wire.keeping(message)
    channel.send(message)
    return True


class Rehearsal:
    """A request of our own, sent before confinement and answered under it.

    It makes this process copy the memory pages that every call writes to, before the time of a call counts.
    """

    def __init__(self) -> None:
        side, code = 64, b"result = np.array(image.rotate(90, expand=True))"
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, 1, 0, len(code), 100, 1 << 20, True, True)
        files = [os.memfd_create("cv-rehearsal"), os.memfd_create("cv-rehearsal")]
        for descriptor in files:
            os.ftruncate(descriptor, 4 * side * side)
        socket.send_fds(self._ours, [request, wire.PLACE.pack(side, side, 0), code], files)
        for descriptor in files:
            os.close(descriptor)

    def play(self) -> None:
        """Answer the request and forget it."""
        _answer(self._theirs, SharedFiles(), {}, run)
        self._theirs.close()
        self._ours.close()


def _receive(channel: socket.socket, memory: SharedFiles) -> Request | None:
    message, descriptors, _, _ = socket.recv_fds(channel, wire.MAX_MESSAGE, 2)
    if not message:
        return None
    _, nonce, n_images, chosen, n_code, text_chars, capacity, has_inputs, has_output = wire.REQUEST.unpack_from(message)
    memory.take(descriptors, has_inputs=has_inputs, has_output=has_output)
    places = [wire.PLACE.unpack_from(message, wire.REQUEST.size + wire.PLACE.size * i) for i in range(n_images)]
    start = wire.REQUEST.size + wire.PLACE.size * n_images
    return Request(nonce, message[start : start + n_code], memory.images(places), chosen, text_chars, capacity)


def run(request: Request, names: dict[str, Any]) -> wire.Made:
    """Run the code."""
    code = request.payload.decode("utf-8", "replace")
    chosen = request.images[request.chosen]
    untouched = chosen.im
    call_log.LOG.begin(request.images, request.chosen)
    postponed.begin(request.images)
    _set_names(names, request, chosen, has_draw="draw" in code)
    printed = CappedText(request.text_chars + 1)
    random.seed(0)
    np.random.seed(0)
    cv2.setRNGSeed(0)
    _ENTROPY.seed(0)
    sys.stdout = sys.stderr = printed
    try:
        exec(compile(code, _FILE_NAME, "exec", dont_inherit=True), names)  # noqa: S102 - this process is the cage
        name = _result_name(names, chosen, untouched)
        claim = "" if name is None else call_log.LOG.end(names[name])
        image = None if name is None else _fitting(to_image(names[name], name), request.capacity)
    except ResultError as error:
        return wire.Made(wire.FAILED, text=printed.text() + str(error))
    except BaseException as error:  # noqa: BLE001 - also what the code raises to end the process
        return wire.Made(wire.FAILED, text=printed.text() + _describe(error, code))
    finally:
        sys.stdout = sys.stderr = sys.__stdout__
    text = printed.text()
    if image is not None:
        return postponed.hand_over(image, text, claim, untouched)
    return wire.Made(wire.TEXT_ONLY, text=text) if text.strip() else wire.Made(wire.EMPTY, text=NO_RESULT)


def _set_names(names: dict[str, Any], request: Request, chosen: Image.Image, *, has_draw: bool) -> None:
    if not names:
        names.update(_PROVIDED, __name__="__main__", __builtins__=__builtins__)
    names.update({f"image_{index}": image for index, image in enumerate(request.images)})
    names.update(image=chosen, img=chosen, images=request.images)
    if has_draw:
        names["draw"] = ImageDraw.Draw(chosen)


def forget_call(names: dict[str, Any]) -> None:
    """Drop the names of a call's images and results."""
    for name in [name for name in names if name in _OF_CALL or (isinstance(name, str) and name.startswith("image_"))]:
        del names[name]


def _result_name(names: dict[str, Any], chosen: Image.Image, untouched: Any) -> str | None:
    """The name that holds the result; None if there is none."""
    for name in RESULT_NAMES:
        value = names.get(name)
        if value is None:
            continue
        if name in ("img", "image") and value is chosen and not _is_changed(chosen, untouched):
            continue
        return name
    return None


def _is_changed(image: Image.Image, untouched: Any) -> bool:
    """Whether the code changed the image in place: Pillow copies a read-only image before changing it."""
    if image.im is untouched:
        return False
    return image.size != untouched.size or image.mode != "RGB" or image.tobytes() != _wrap(untouched).tobytes()


def _wrap(core: Any) -> Image.Image:
    return Image.Image()._new(core)


def _fitting(image: Image.Image, capacity: int) -> Image.Image:
    if 4 * image.width * image.height > capacity:
        raise ResultError(too_large(image.size, capacity / 4e6))
    return image


def _describe(error: BaseException, code: str) -> str:
    """Type, message and line; the error's own `str` belongs to the code and may raise anything."""
    try:
        line = _line_of(error)
        message = error.msg if isinstance(error, SyntaxError) else str(error)
        return describe_error(kind_of(error), str(message)[:2000], line, code)
    except BaseException:  # noqa: BLE001
        return "An error that cannot be shown was raised."


def _line_of(error: BaseException) -> int:
    if isinstance(error, SyntaxError):
        return error.lineno or 0
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == _FILE_NAME]
    return (lines[-1] or 0) if lines else 0


def _checked_rotate(rotate: Any) -> Any:
    """`cv2.rotate` without the codes for which it returns uninitialized memory."""

    @functools.wraps(rotate)
    def call(*arguments: Any, **keywords: Any) -> Any:
        code = arguments[1] if len(arguments) > 1 else keywords.get("rotateCode")
        if isinstance(code, int) and code not in (0, 1, 2):
            raise ValueError(
                f"rotateCode: expected cv2.ROTATE_90_CLOCKWISE (0), cv2.ROTATE_180 (1) or "
                f"cv2.ROTATE_90_COUNTERCLOCKWISE (2), got {code}."
            )
        return rotate(*arguments, **keywords)

    return call


def warm(*, logs_calls: bool) -> None:
    """Run what snippets use once, so that forked workers find it in memory; `logs_calls` installs the call log."""
    Image.init()
    vars(bit_generator)["randbits"] = _ENTROPY.getrandbits  # so that generators without a seed repeat as well
    cv2.setNumThreads(0)
    image = Image.new("RGB", (16, 16), "red")
    noise = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    for picture in (image, Image.fromarray(noise)):
        picture.rotate(30, resample=Image.Resampling.BICUBIC).resize((8, 8)).convert("L").filter(ImageFilter.SHARPEN)
        ImageEnhance.Contrast(picture).enhance(1.5)
        ImageOps.autocontrast(picture)
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG")
        Image.open(io.BytesIO(buffer.getvalue())).load()
    ImageDraw.Draw(image).text((0, 0), "a", font=ImageFont.load_default())
    cv2.resize(cv2.cvtColor(noise, cv2.COLOR_RGB2GRAY), (8, 8))
    np.random.default_rng(0).random(3)
    np.linalg.inv(np.eye(3))
    cv2.rotate = _checked_rotate(cv2.rotate)
    if logs_calls:
        wrappers.install()
    traceback.extract_stack()
    linecache.clearcache()
    gc.collect()
    gc.freeze()

"""Attacks by handover: calls left to the trainer, pixels that change later, costly claims, broken images."""

# ruff: noqa: E501 - each attack is one line
from __future__ import annotations

_REACH = (
    "import gc, mmap, os, sys\nfrom sandbox.confined import call_log, postponed, wire\n"
    "frame = sys._getframe(2).f_locals\nmemory, R = frame['memory'], frame['request']\n"
)
_TAMPER = (
    "result._im.text = 'image.resize((9, 9))'", "result._im.text = 'image.transpose(3)'", "result._im.size = (1, 1)",
    "result._im.size = (9999, 9999)", "result._im.source = 5", "result._im.source = Image.new('RGB', (3, 3)).im",
    "result._im.source = Image.new('L', (600, 500)).im", "result._im.source = Image.new('RGBA', (600, 500)).im",
    "result._im._run = lambda source: 1 / 0", "result._im.source = None", "result._im.text = 'x' * 99999",
    "result._im.text = 'image.resize((600, 500), 3, (0.0, 0.0, 1e300, 1e300))'", "result._im.text = chr(0xdcff)",
    "result._size = (5, 5)", "result._mode = 'L'", "postponed._inputs.clear()", "postponed._made.clear()",
    "postponed.end = lambda: 1 / 0", "postponed.hand_over = lambda *a: 1 / 0", "postponed.hand_over = lambda *a: 'x'",
    "wire.pack_reply = lambda *a: b''", "wire.pack_reply = lambda *a: b'x' * 200000",
)  # fmt: skip
#: (claim, call): the claim ends like the call that is left to the trainer, but leads to another result.
_LIES = (
    ("v1 = image.rotate(180)\\nv2 = v1.resize((600, 500))\\nresult = v2", "image.resize((600, 500))"),
    ("v1 = image.crop((0, 0, 90, 90))\\nv2 = v1.resize((600, 500))\\nresult = v2", "image.resize((600, 500))"),
    (
        "v1 = image.filter(ImageFilter.MedianFilter(3))\\nv2 = v1.resize((600, 500))\\nresult = v2",
        "image.resize((600, 500))",
    ),
    ("v1 = images[1].resize((600, 500))\\nresult = v1", "image.resize((600, 500))"),
    ("v1 = image.resize((600, 500))\\nv2 = v1.crop((0, 0, 600, 499))\\nresult = v2", "image.resize((600, 499))"),
)
_COSTLY = (
    "v0 = image\\n"
    + "".join(f"v{i + 1} = v{i}.filter(ImageFilter.MedianFilter(9))\\n" for i in range(39))
    + "result = v39",
    "v0 = image\\n" + "".join(f"v{i + 1} = v{i}.rotate(7)\\n" for i in range(60)) + "result = v60",
    "v1 = image.resize((5600, 5600))\\nv2 = v1.rotate(3)\\nresult = v2",
    "v1 = image.resize((1, 30000))\\nv2 = v1.resize((30000, 1))\\nresult = v2",
    "v1 = np.array(image)\\nv2 = cv2.bilateralFilter(v1, 15, 500, 500)\\nresult = v2",
    "v1 = np.array(image)\\nv2 = cv2.fastNlMeansDenoisingColored(v1, None, 10, 10, 9, 31)\\nresult = v2",
    "v1 = ImageDraw.Draw(image)\\nv1.line((-100000, -100000, 100000, 100000), fill='red', width=200)\\nresult = image",
)
_BROKEN = (
    "a = [image.resize((600 + i, 500)) for i in range(40)]\nresult = a[-1]",
    "class X(type(image)): pass\nimage.__class__ = X\nresult = image.resize((600, 500))",
    "Image.Image.im = property(lambda self: 1 / 0)\nresult = image.resize((600, 500))",
    "Image.Image._new = lambda self, pixels: self\nresult = image.resize((600, 500))",
    "Image.Image.load = None\nresult = image.resize((600, 500))",
    "image._im = None\nresult = image.resize((600, 500))",
    "image.im = 5\nresult = image.resize((600, 500))",
    f"{_REACH}memory.inputs[0:4] = b'aaaa'",
    f"{_REACH}image.im.putpixel((0, 0), (1, 2, 3))\nresult = image",
)


def _answered(outcome: int, side: int, claim: str, place: str) -> str:
    """Code that answers in its worker's place and then writes to the pixels that it handed over."""
    return (
        f"{_REACH}memory.write(Image.new('RGB', ({side}, {side}), 'red'))\nc = {claim!r}.encode()\n"
        f"os.write(3, wire.REPLY.pack(wire.REPLY_MAGIC, R.nonce, {outcome}, {side}, {side}, 0, len(c)) + c)\n"
        f"for i in range(40):\n    memory._results[{place}] = bytes([i]) * 4096"
    )


#: Attack code. Whatever it does, other calls are served and exact, and it earns nothing that it did not do.
HANDOVER_ATTACKS: list[str] = [
    *(f"{_REACH}result = image.resize((600, 500))\n{way}" for way in _TAMPER),
    *(f"{_REACH}call_log.CallLog.end = lambda self, result: '{claim}'\nresult = {call}" for claim, call in _LIES),
    *(f"{_REACH}call_log.CallLog.end = lambda self, result: \"{claim}\"\nresult = image.crop((0, 0, 310, 270))" for claim in _COSTLY),
    *(
        _answered(outcome, side, claim, place)
        for side in (64, 320, 2000)
        for outcome, claim in ((4, "result = image.transpose(2)\nresult = image"), (0, "result = image"))
        for place in (":4096", "-4096:")
    ),
    *_BROKEN,
]  # fmt: skip

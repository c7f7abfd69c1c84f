"""True operations, as models spell them, with the credit of each: the rows of the credit matrix.

`python -m tests.sandbox.effects.matrix` prints the share that is fully credited, by lane and operation.
"""

from __future__ import annotations

import math
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from sandbox import Affine, Limits, Observation, ToolExecutor, ToolRequest, orientation_frame

Size = tuple[int, int]


@dataclass(frozen=True)
class Operation:
    """An operation and its spellings, which all give `result`.

    Attributes:
        tools: Tools that it earns on an image that has colors.
        orientation: Net orientation, one of the eight; None for an oblique turn.
        frame: Maps the size of the image to the frame, which maps result pixels to pixels of the image.
        codes: Ways to write it; `W`, `H` are the image's size, `BOX` is the middle of it.
        also: Tools of intermediate steps, which may also be credited.
    """

    tools: tuple[str, ...]
    orientation: str | None
    frame: Callable[[Size], Affine]
    codes: tuple[str, ...]
    also: tuple[str, ...] = ()


def stays(size: Size) -> Affine:
    return Affine()


def turned(name: str) -> Callable[[Size], Affine]:
    return lambda size: orientation_frame(name, size)


def box_of(size: Size) -> tuple[int, int, int, int]:
    width, height = size
    return width // 4, height // 5, width // 4 + width // 2, height // 5 + height // 2


def cropped(size: Size) -> Affine:
    left, top, _, _ = box_of(size)
    return Affine(c=left, f=top)


def zoomed(size: Size) -> Affine:
    return Affine(a=0.5, e=0.5).then(cropped(size))


def turn_then(name: str, frame: Callable[[Size], Affine]) -> Callable[[Size], Affine]:
    """The frame of an operation on the turned image."""
    swaps = name in ("rotate_90", "rotate_270", "transpose", "transverse")
    return lambda size: frame(size[::-1] if swaps else size).then(orientation_frame(name, size))


def oblique(degrees: float, *, expands: bool) -> Callable[[Size], Affine]:
    """The frame of a rotation about the center."""

    def frame(size: Size) -> Affine:
        width, height = size
        cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        wide, high = width, height
        if expands:
            xs = [x * cosine + y * sine for x in (0, width) for y in (0, height)]
            ys = [y * cosine - x * sine for x in (0, width) for y in (0, height)]
            middle = (width / 2) * cosine + (height / 2) * sine, (height / 2) * cosine - (width / 2) * sine
            wide = math.ceil(max(xs) - middle[0] + width / 2) - math.floor(min(xs) - middle[0] + width / 2)
            high = math.ceil(max(ys) - middle[1] + height / 2) - math.floor(min(ys) - middle[1] + height / 2)
        c = width / 2 - cosine * wide / 2 + sine * high / 2
        f = height / 2 - sine * wide / 2 - cosine * high / 2
        return Affine(cosine, -sine, c, sine, cosine, f)

    return frame


_ARRAY = "a = np.array(image)\n"
_SHOW = "\nresult = Image.fromarray(a)"
_CUT = _ARRAY + "x1, y1, x2, y2 = BOX\n"


def turns(name: str, *codes: str) -> Operation:
    return Operation((name,), name, turned(name), codes)


def colors(tool: str, *codes: str, also: tuple[str, ...] = ()) -> Operation:
    return Operation((tool,), "identity", stays, codes, also)


OPERATIONS: dict[str, Operation] = {
    "rotate_90": turns(
        "rotate_90",
        "result = image.rotate(90, expand=True)",
        "result = image.transpose(Image.Transpose.ROTATE_90)",
        _ARRAY + "a = cv2.rotate(a, cv2.ROTATE_90_COUNTERCLOCKWISE)" + _SHOW,
        _ARRAY + "a = np.rot90(a)" + _SHOW,
        _ARRAY + "result = np.ascontiguousarray(np.rot90(a, k=1, axes=(0, 1)))",
    ),
    "rotate_180": turns(
        "rotate_180",
        "result = image.rotate(180)",
        _ARRAY + "a = cv2.flip(a, -1)" + _SHOW,
        _ARRAY + "a = a[::-1, ::-1].copy()" + _SHOW,
    ),
    "rotate_270": turns(
        "rotate_270",
        "result = image.rotate(-90, expand=True)",
        "angle = 3 * 90\nresult = image.rotate(angle, expand=1)",
        "bgr = cv2.cvtColor(np.array(image), cv2.COLOR_RGB2BGR)\nbgr = cv2.rotate(bgr, cv2.ROTATE_90_CLOCKWISE)\n"
        "result = Image.fromarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))",
        _ARRAY + "a = np.rot90(a, -1)" + _SHOW,
    ),
    "mirrors": turns(
        "flip_horizontal",
        "result = ImageOps.mirror(image)",
        "result = image.transpose(Image.FLIP_LEFT_RIGHT)",
        _ARRAY + "a = np.fliplr(a)" + _SHOW,
        _ARRAY + "a = a[:, ::-1]" + _SHOW,
    ),
    "flips": turns(
        "flip_vertical",
        "result = ImageOps.flip(image)",
        _ARRAY + "a = cv2.flip(a, 0)" + _SHOW,
        _ARRAY + "a = np.flipud(a)" + _SHOW,
    ),
    "turn without expand": Operation(
        ("rotate_90", "crop"),
        "rotate_90",
        oblique(90, expands=False),
        ("result = image.rotate(90)", "result = image.rotate(90, resample=Image.BICUBIC, expand=False)"),
    ),
    "crop": Operation(
        ("crop",),
        "identity",
        cropped,
        (
            "result = image.crop(BOX)",
            _CUT + "a = a[y1:y2, x1:x2]" + _SHOW,
            _CUT + "a = a[y1:y2][:, x1:x2].copy()" + _SHOW,
            _CUT + "result = a[y1:y2, x1:x2, :]",
        ),
    ),
    "crop and zoom": Operation(
        ("crop", "resize"),
        "identity",
        zoomed,
        (
            "region = image.crop(BOX)\nresult = region.resize((region.width * 2, region.height * 2), Image.LANCZOS)",
            "result = image.crop(BOX).resize((W // 2 * 2, H // 2 * 2))",
            "result = image.resize((W // 2 * 2, H // 2 * 2), Image.BICUBIC, box=BOX)",
            _CUT + "a = cv2.resize(a[y1:y2, x1:x2], None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)" + _SHOW,
            _CUT + "part = a[y1:y2, x1:x2].copy()\na = cv2.resize(part, (W // 2 * 2, H // 2 * 2))" + _SHOW,
        ),
    ),
    "crop and contrast": Operation(
        ("crop", "contrast"),
        "identity",
        cropped,
        (
            "result = ImageEnhance.Contrast(image.crop(BOX)).enhance(1.8)",
            _CUT + "a = cv2.convertScaleAbs(a[y1:y2, x1:x2], alpha=1.4, beta=-20)" + _SHOW,
        ),
    ),
    "crop and sharpen": Operation(
        ("crop", "sharpen"), "identity", cropped, ("result = image.crop(BOX).filter(ImageFilter.SHARPEN)",)
    ),
    "crop, zoom and sharpness": Operation(
        ("crop", "resize", "sharpness"),
        "identity",
        zoomed,
        (
            "c = image.crop(BOX)\nc = c.resize((c.width * 2, c.height * 2), Image.LANCZOS)\n"
            "result = ImageEnhance.Sharpness(c).enhance(2.0)",
        ),
    ),
    "turn and crop": Operation(
        ("rotate_180", "crop"),
        "rotate_180",
        turn_then("rotate_180", cropped),
        (
            "result = image.rotate(180).crop(BOX)",
            _CUT + "a = cv2.rotate(a, cv2.ROTATE_180)[y1:y2, x1:x2]" + _SHOW,
        ),
    ),
    "turn, crop and zoom": Operation(
        ("rotate_180", "crop", "resize"),
        "rotate_180",
        turn_then("rotate_180", zoomed),
        ("up = image.rotate(180, expand=True)\nresult = up.crop(BOX).resize((W // 2 * 2, H // 2 * 2), Image.LANCZOS)",),
    ),
    "turn and pad": Operation(
        ("rotate_90", "pad"),
        "rotate_90",
        turn_then("rotate_90", lambda size: Affine(c=-20, f=-20)),
        (
            "result = ImageOps.expand(image.rotate(90, expand=True), border=20, fill='white')",
            _ARRAY + "a = cv2.copyMakeBorder(np.rot90(a).copy(), 20, 20, 20, 20, cv2.BORDER_CONSTANT)" + _SHOW,
        ),
    ),
    "turn and contrast": Operation(
        ("rotate_180", "contrast"),
        "rotate_180",
        turned("rotate_180"),
        ("result = ImageEnhance.Contrast(image.rotate(180)).enhance(1.5)",),
    ),
    "15 degrees": Operation(
        ("rotate",),
        None,
        oblique(15, expands=True),
        ("result = image.rotate(15, expand=True, fillcolor='white')", "result = image.rotate(15, Image.BICUBIC, True)"),
    ),
    "-7.5 degrees": Operation(
        ("rotate",), None, oblique(-7.5, expands=False), ("result = image.rotate(-7.5, resample=Image.BILINEAR)",)
    ),
    "12 degrees by OpenCV": Operation(
        ("affine",),
        None,
        lambda size: _about_centre(12, size),
        (_ARRAY + "m = cv2.getRotationMatrix2D((W / 2, H / 2), 12, 1.0)\na = cv2.warpAffine(a, m, (W, H))" + _SHOW,),
    ),
    "border": Operation(
        ("pad",),
        "identity",
        lambda size: Affine(c=-12, f=-12),
        (
            "result = ImageOps.expand(image, border=12, fill='black')",
            "canvas = Image.new('RGB', (W + 24, H + 24), 'white')\ncanvas.paste(image, (12, 12))\nresult = canvas",
            _ARRAY + "a = cv2.copyMakeBorder(a, 12, 12, 12, 12, cv2.BORDER_REPLICATE)" + _SHOW,
            _ARRAY + "a = np.pad(a, ((12, 12), (12, 12), (0, 0)), mode='constant')" + _SHOW,
        ),
    ),
    "edges": colors(
        "edges",
        "result = image.filter(ImageFilter.FIND_EDGES)",
        _ARRAY + "a = cv2.Canny(cv2.cvtColor(a, cv2.COLOR_RGB2GRAY), 50, 150)" + _SHOW,
        also=("grayscale",),
    ),
    "threshold": colors(
        "threshold",
        "gray = cv2.cvtColor(np.array(image), cv2.COLOR_RGB2GRAY)\n"
        "_, a = cv2.threshold(gray, 127, 255, cv2.THRESH_BINARY)" + _SHOW,
        "gray = np.array(image.convert('L'))\n"
        "a = cv2.threshold(gray, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[1]" + _SHOW,
        also=("grayscale",),
    ),
    "resize": Operation(
        ("resize",),
        "identity",
        lambda size: Affine(a=0.5, e=0.5),
        (
            "result = image.resize((W * 2, H * 2), Image.BICUBIC)",
            _ARRAY + "a = cv2.resize(a, (W * 2, H * 2), interpolation=cv2.INTER_LINEAR)" + _SHOW,
            "result = ImageOps.scale(image, 2)",
        ),
    ),
    "contrast": colors("contrast", "result = ImageEnhance.Contrast(image).enhance(1.6)"),
    "brightness": colors("brightness", "result = ImageEnhance.Brightness(image).enhance(0.7)"),
    "invert": colors("invert", "result = ImageOps.invert(image)", _ARRAY + "a = cv2.bitwise_not(a)" + _SHOW),
    "gray": colors(
        "grayscale",
        "result = image.convert('L')",
        _ARRAY + "a = cv2.cvtColor(a, cv2.COLOR_RGB2GRAY)" + _SHOW,
        "result = ImageOps.grayscale(image).convert('RGB')",
    ),
    "blur": colors(
        "blur",
        "result = image.filter(ImageFilter.GaussianBlur(radius=3))",
        _ARRAY + "a = cv2.GaussianBlur(a, (5, 5), 0.8)" + _SHOW,
    ),
    "local contrast": colors(
        "clahe",
        "g = cv2.cvtColor(np.array(image), cv2.COLOR_RGB2GRAY)\n"
        "clahe = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8))\na = clahe.apply(g)" + _SHOW,
        also=("grayscale",),
    ),
    "drawing": colors(
        "draw", "draw.rectangle((W // 4, H // 4, W // 2, H // 2), outline='red', width=3)\nresult = image"
    ),
    "nothing": Operation(
        (),
        "identity",
        stays,
        (
            "result = image",
            "result = image.rotate(90, expand=True).rotate(-90, expand=True)",
            "result = image.copy()",
            "result = Image.fromarray(np.array(image)[::-1][::-1])",
        ),
    ),
}


def _about_centre(degrees: float, size: Size) -> Affine:
    """The frame of a rotation in OpenCV, which counts from the middle of a pixel."""
    width, height = size
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = width / 2 + 0.5, height / 2 + 0.5
    return Affine(cosine, -sine, x - cosine * x + sine * y, sine, cosine, y - sine * x - cosine * y)


#: Ways to wrap code around the calls.
WRITTEN: dict[str, Callable[[str], str]] = {
    "plain": lambda code: code,
    "def": lambda code: (
        f"def process(image):\n{textwrap.indent(code, '    ')}\n    return result\nresult = process(image)"
    ),
    "try": lambda code: f"try:\n{textwrap.indent(code, '    ')}\nexcept ValueError:\n    result = image",
    "loop": lambda code: (
        f"for attempt in range(3):\n{textwrap.indent(code, '    ')}\n    if attempt == 0:\n        break"
    ),
}


@cache
def scenes() -> dict[str, Image.Image]:
    """Two photographs, a page and a chart, each in color and in gray."""
    from sklearn.datasets import load_sample_images

    from cv_lightning.data.worlds import families

    paper = families.Paper((220, 300), 1, families.Sizes((9, 11), (14, 18)))
    page = families.receipt(paper, np.random.default_rng(3)).page.image
    chart = families.chart(paper, np.random.default_rng(5)).page.image
    photographs = [Image.fromarray(pixels).resize((320, 213)) for pixels in load_sample_images().images]
    named = {"china": photographs[0], "flower": photographs[1], "page": page, "chart": chart}
    return named | {f"{name}, gray": image.convert("L").convert("RGB") for name, image in named.items()}


@dataclass(frozen=True)
class Case:
    """One case of the matrix: an operation on an image, written in some way."""

    operation: str
    scene: str
    written: str
    code: str

    @property
    def image(self) -> Image.Image:
        return scenes()[self.scene]

    def is_full(self, seen: Observation) -> bool:
        """Whether everything that was done is credited, and nothing else."""
        truth, size = OPERATIONS[self.operation], self.image.size
        tools = set() if self.operation == "gray" and self.scene.endswith("gray") else set(truth.tools)
        wanted = truth.frame(size)
        is_close = seen.frame is not None and all(
            abs(one - other) < 1e-6
            for corner in ((0, 0), size)
            for one, other in zip(seen.frame.point(*corner), wanted.point(*corner), strict=True)
        )
        is_named = tools <= set(seen.tools) <= tools | set(truth.also)
        return is_named and seen.orientation == truth.orientation and is_close

    def is_false(self, seen: Observation) -> bool:
        """Whether something is credited that was not done."""
        truth = OPERATIONS[self.operation]
        is_turned = seen.orientation not in (None, truth.orientation)
        return is_turned or bool(set(seen.tools) - {*truth.tools, *truth.also})


def cases(scenes_: tuple[str, ...], written: tuple[str, ...]) -> Iterator[Case]:
    """Every operation in every spelling on these scenes, written in these ways."""
    for name, operation in OPERATIONS.items():
        for scene in scenes_:
            size = scenes()[scene].size
            for way in written:
                for code in operation.codes:
                    start = f"W, H = image.size\nBOX = {box_of(size)}\n"
                    yield Case(name, scene, way, WRITTEN[way](start + code))


def cut_short(chosen: Iterator[Case]) -> list[Case]:
    """Every fifth case: a sample over spellings, scenes and ways to write them."""
    return [case for number, case in enumerate(chosen) if number % 5 == 0]


def confined_executor() -> ToolExecutor:
    """An executor that runs all code as written; it keeps its workers, which saves time."""
    return ToolExecutor(lane="confined", workers=2, limits=Limits(wall_s=20), fresh="episode")


def main() -> None:
    """Print the matrix."""
    chosen = list(cases(tuple(scenes()), tuple(WRITTEN)))
    lanes: dict[str, dict[str, list[tuple[bool, bool]]]] = {}
    for lane, fresh in (("pillow", "call"), ("auto", "call"), ("confined", "episode")):
        with ToolExecutor(lane=lane, workers=2, limits=Limits(wall_s=20), fresh=fresh) as executor:
            seen = []
            for start in range(0, len(chosen), 200):
                part = chosen[start : start + 200]
                requests = [ToolRequest(case.code, [case.image], episode=str(i % 4)) for i, case in enumerate(part)]
                seen += executor.execute(requests)
        found = lanes.setdefault(lane, defaultdict(list))
        for case, observation in zip(chosen, seen, strict=True):
            if observation.status != "rejected":
                assert observation.status == "ok", (case, observation)
                found[case.operation].append((case.is_full(observation), case.is_false(observation)))
    print(f"{'operation':28}" + "".join(f"{lane:>22}" for lane in lanes))
    for name in (*OPERATIONS, "all"):
        cells = []
        for found in lanes.values():
            rows = [row for key, values in found.items() if name in (key, "all") for row in values]
            full, false = sum(row[0] for row in rows), sum(row[1] for row in rows)
            cells.append(f"{full:5} /{len(rows):5} ({false:3} false)")
        print(f"{name:28}" + "".join(f"{cell:>22}" for cell in cells))


if __name__ == "__main__":
    main()

"""Functions whose bodies are snippets as models write them: read as text, and run by Python as plain library calls.

Each takes `image` and `images`, and ends by returning its `result`. Only code written here is ever run this way.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

Idiom = Callable[[Image.Image, list[Image.Image]], Image.Image]


def snippet_of(idiom: Idiom) -> str:
    """The body of an idiom without its `return result`."""
    lines = inspect.getsource(idiom).splitlines()
    start = next(i for i, line in enumerate(lines) if line.rstrip().endswith(":")) + 1
    return textwrap.dedent("\n".join(lines[start:-1]))


def rotate_expand(image, images):
    result = image.rotate(90, expand=True)
    return result


def rotate_by_keyword(image, images):
    result = image.rotate(angle=-90, expand=1)
    return result


def rotate_without_expand(image, images):
    result = image.rotate(270)
    return result


def rotate_oblique(image, images):
    result = image.rotate(30, resample=Image.BICUBIC, expand=True, fillcolor=(255, 255, 255))
    return result


def rotate_oblique_keeps_size(image, images):
    result = image.rotate(-7.5, Image.Resampling.BILINEAR, fillcolor="white")
    return result


def rotate_about_a_point(image, images):
    result = image.rotate(12, center=(3, 5), translate=(2, -1))
    return result


def rotate_twice(image, images):
    result = image.rotate(90, expand=True).rotate(180)
    return result


def transpose_constant(image, images):
    result = image.transpose(Image.FLIP_LEFT_RIGHT)
    return result


def transpose_enum(image, images):
    flipped = image.transpose(Image.Transpose.TRANSVERSE)
    result = flipped
    return result


def mirror_and_flip(image, images):
    result = ImageOps.flip(ImageOps.mirror(image))
    return result


def cv2_rotate(image, images):
    arr = np.array(image)
    result = Image.fromarray(cv2.rotate(arr, cv2.ROTATE_90_CLOCKWISE))
    return result


def cv2_rotate_bgr(image, images):
    bgr = cv2.cvtColor(np.array(image), cv2.COLOR_RGB2BGR)
    bgr = cv2.rotate(bgr, cv2.ROTATE_90_COUNTERCLOCKWISE)
    result = Image.fromarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))
    return result


def cv2_flip_both(image, images):
    result = Image.fromarray(cv2.flip(np.asarray(image), -1))
    return result


def np_rot90(image, images):
    result = Image.fromarray(np.ascontiguousarray(np.rot90(np.array(image), k=-1)))
    return result


def np_flips(image, images):
    a = np.flipud(np.fliplr(np.array(image)))
    result = Image.fromarray(np.fliplr(a))
    return result


def np_reversed_rows(image, images):
    result = Image.fromarray(np.array(image)[::-1])
    return result


def np_reversed_columns(image, images):
    result = Image.fromarray(np.array(image)[:, ::-1, :])
    return result


def np_channels(image, images):
    result = Image.fromarray(np.array(image)[:, :, ::-1])
    return result


def crop_box(image, images):
    result = image.crop((2, 3, 9, 8))
    return result


def crop_list_of_floats(image, images):
    result = image.crop([1.5, 2.5, 8.4, 7.6])
    return result


def crop_outside(image, images):
    result = image.crop((-3, 2, 40, 50))
    return result


def crop_half_by_size(image, images):
    width, height = image.size
    left = width // 4
    result = image.crop((left, int(height * 0.25), left + width / 2, height))
    return result


def crop_by_slice(image, images):
    arr = np.array(image)
    h, w = arr.shape[:2]
    result = Image.fromarray(arr[1 : h - 1, 2 : w - 1])
    return result


def crop_by_reversed_slice(image, images):
    arr = np.array(image)
    result = Image.fromarray(arr[8:2:-1, 1:7])
    return result


def crop_then_resize(image, images):
    region = image.crop((2, 2, 10, 9))
    result = region.resize((region.width * 3, region.height * 2), Image.LANCZOS)
    return result


def resize_default(image, images):
    result = image.resize((13, 17))
    return result


def resize_box(image, images):
    result = image.resize(size=(13, 17), resample=Image.Resampling.BOX, box=(1, 1.5, 9, 8), reducing_gap=2.0)
    return result


def cv2_resize(image, images):
    result = Image.fromarray(cv2.resize(np.array(image), (21, 19), interpolation=cv2.INTER_CUBIC))
    return result


def ops_sizes(image, images):
    padded = ImageOps.pad(image, (30, 20), color="black")
    result = padded
    return result


def ops_borders(image, images):
    result = ImageOps.expand(ImageOps.expand(image, border=(1, 2, 3, 4), fill="red"), 2)
    return result


def colors(image, images):
    result = ImageOps.autocontrast(image, cutoff=2)
    result = ImageOps.posterize(ImageOps.equalize(result), 3)
    result = ImageOps.solarize(ImageOps.invert(result), threshold=100)
    return result


def enhancers(image, images):
    enhancer = ImageEnhance.Contrast(image)
    result = enhancer.enhance(1.8)
    result = ImageEnhance.Sharpness(result).enhance(2.0)
    result = ImageEnhance.Brightness(ImageEnhance.Color(result).enhance(0.3)).enhance(factor=1.2)
    return result


def filters(image, images):
    result = image.filter(ImageFilter.SHARPEN).filter(ImageFilter.GaussianBlur(radius=2))
    result = result.filter(ImageFilter.UnsharpMask(radius=2, percent=150, threshold=3))
    result = result.filter(ImageFilter.MedianFilter(3)).filter(ImageFilter.BoxBlur(1.5))
    result = result.filter(ImageFilter.MaxFilter(size=5)).filter(ImageFilter.FIND_EDGES)
    return result


def grayscale_threshold(image, images):
    gray = cv2.cvtColor(np.array(image), cv2.COLOR_RGB2GRAY)
    _, binary = cv2.threshold(gray, 127, 255, cv2.THRESH_BINARY)
    result = Image.fromarray(binary)
    return result


def canny(image, images):
    edges = cv2.Canny(np.array(image), 50, 150)
    result = Image.fromarray(cv2.cvtColor(edges, cv2.COLOR_GRAY2RGB))
    return result


def cv2_blurs(image, images):
    arr = cv2.medianBlur(cv2.GaussianBlur(np.array(image), (5, 3), 1.2), 3)
    arr = cv2.bilateralFilter(cv2.blur(arr, (2, 3)), 5, 75, 75)
    result = Image.fromarray(cv2.convertScaleAbs(arr, alpha=1.4, beta=10))
    return result


def cv2_equalized(image, images):
    gray = np.array(image.convert("L"))
    result = Image.fromarray(cv2.bitwise_not(cv2.equalizeHist(gray))).convert("RGB")
    return result


def imports_and_prints(image, images):
    from PIL import ImageOps as Ops

    result = Ops.mirror(image)
    print("size", result.size, f"{image.mode}: {result.width / 2:.1f}", [1, None])
    return result


def drawing(image, images):
    from PIL import ImageDraw

    marked = image.copy()
    pen = ImageDraw.Draw(marked)
    pen.rectangle([(1, 2), (9, 8)], outline="red", width=2)
    pen.line((0, 0, 9, 9), fill=(1, 2, 3))
    result = marked
    return result


def equalized_locally(image, images):
    clahe = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8))
    result = Image.fromarray(clahe.apply(np.array(image.convert("L"))))
    return result


def sharpened_by_a_kernel(image, images):
    kernel = np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]])
    result = Image.fromarray(cv2.filter2D(np.array(image), -1, kernel))
    return result


def rebinding(image, images):
    first = image.rotate(90, expand=True)
    second = first
    first = first.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    result = second.crop((0, 0, 5, 4))
    return result


def another_image(image, images):
    result = images[1].rotate(180)
    return result


def last_image(image, images):
    result = images[-1].crop((0, 0, 4, 4))
    return result


def constants_folded(image, images):
    scale = 2
    box = (1, 1, min(image.width, 5 * scale), max(3, round(7.6) // 1))
    result = image.crop(box).resize((int(4.9) * scale, 10 % 7))
    return result


IDIOMS: list[Idiom] = [
    value
    for name, value in list(globals().items())
    if inspect.isfunction(value) and value.__module__ == __name__ and name != "snippet_of"
]

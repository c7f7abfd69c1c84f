"""Output size, mode and frame of each operation, from its values and the state before it.

Sizes are (width, height) in pixels; a frame maps pixels of the result to pixels before.
"""

from __future__ import annotations

import math

from PIL import Image

from sandbox.geometry import Affine, Size
from sandbox.operations.operation import State, Values


def turned(values: Values, state: State) -> State:
    """State after an orientation."""
    width, height = state.size
    is_turned = values[0] in {"rotate_90", "rotate_270", "transpose", "transverse"}
    return State((height, width) if is_turned else state.size, state.mode)


def rotation(values: Values, size: Size) -> tuple[Size, Affine]:
    """Size and frame of `Image.rotate` for other angles, in Pillow's own arithmetic, so that sizes are always equal."""
    angle, _, expand, center, translate, _ = values
    width, height = size
    center_x, center_y = center or (width / 2, height / 2)
    shift_x, shift_y = translate or (0, 0)
    radians = -math.radians(angle % 360.0)
    cosine, sine = round(math.cos(radians), 15), round(math.sin(radians), 15)
    inverse_sine = round(-math.sin(radians), 15)
    turn = Affine(cosine, sine, 0.0, inverse_sine, cosine, 0.0)
    c, f = turn.point(-center_x - shift_x, -center_y - shift_y)
    frame = Affine(cosine, sine, c + center_x, inverse_sine, cosine, f + center_y)
    if not expand:
        return size, frame
    corners = [frame.point(x, y) for x, y in ((0, 0), (width, 0), (width, height), (0, height))]
    xs, ys = [x for x, _ in corners], [y for _, y in corners]
    wide, high = math.ceil(max(xs)) - math.floor(min(xs)), math.ceil(max(ys)) - math.floor(min(ys))
    c, f = frame.point(-(wide - width) / 2.0, -(high - height) / 2.0)
    return (wide, high), Affine(cosine, sine, c, inverse_sine, cosine, f)


def rotated(values: Values, state: State) -> State:
    """State after `Image.rotate`."""
    return State(rotation(values, state.size)[0], state.mode)


def rounded_box(box: tuple[float, ...]) -> tuple[int, int, int, int]:
    """The box that Pillow crops: every coordinate rounded half to even."""
    left, upper, right, lower = (round(value) for value in box)
    return left, upper, right, lower


def cropped(values: Values, state: State) -> State:
    """State after a crop."""
    left, upper, right, lower = rounded_box(values[0])
    return State((right - left, lower - upper), state.mode)


def crop_frame(values: Values, size: Size) -> Affine:
    """Frame of a crop."""
    left, upper, _, _ = rounded_box(values[0])
    return Affine(c=left, f=upper)


def resized(values: Values, state: State) -> State:
    """State after a call whose first value is the size."""
    return State(values[0], state.mode)


def resize_frame(values: Values, size: Size) -> Affine:
    """Frame of a resize of the box, the third of four values, or of the whole."""
    (width, height), box = values[0], (values[2] if len(values) == 4 else None) or (0, 0, *size)
    return Affine((box[2] - box[0]) / width, 0.0, box[0], 0.0, (box[3] - box[1]) / height, box[1])


def contained_size(size: Size, within: Size) -> Size:
    """The size that `ImageOps.contain` gives: the largest one that fits in `within` at the same aspect ratio."""
    width, height = size
    wide, high = within
    if width / height > wide / high:
        high = round(height / width * wide)
    elif width / height != wide / high:
        wide = round(width / height * high)
    return wide, high


def pad_frame(values: Values, size: Size) -> Affine | None:
    """Frame of `ImageOps.pad`; None if nothing is left of the image."""
    (wide, high), centering = values[0], values[3]
    width, height = contained_size(size, (wide, high))
    if min(width, height) == 0:
        return None
    left = round((wide - width) * centering[0]) if width != wide else 0
    top = 0 if width != wide else round((high - height) * centering[1])
    scale_x, scale_y = size[0] / width, size[1] / height
    return Affine(scale_x, 0.0, -left * scale_x, 0.0, scale_y, -top * scale_y)


def borders(border: int | tuple[int, ...]) -> tuple[int, int, int, int]:
    """Pillow's border as (left, top, right, bottom)."""
    if isinstance(border, int):
        return border, border, border, border
    if len(border) == 2:
        return border[0], border[1], border[0], border[1]
    return border[0], border[1], border[2], border[3]


def expanded(values: Values, state: State) -> State:
    """State after a border was added."""
    left, top, right, bottom = borders(values[0])
    return State((state.size[0] + left + right, state.size[1] + top + bottom), state.mode)


def transform_frame(values: Values, size: Size) -> Affine | None:
    """Frame of `Image.transform` for an affine map or a box; None for other maps."""
    (width, height), method, data = values[:3]
    if method == Image.Transform.AFFINE:
        a, b, c, d, e, f = data
        return Affine(a, b, c, d, e, f)
    if method == Image.Transform.EXTENT:
        left, top, right, bottom = data
        return Affine((right - left) / width, 0.0, left, 0.0, (bottom - top) / height, top)
    return None


def opencv_resized(values: Values, state: State) -> State:
    """State after `cv2.resize` to a size or by factors."""
    size, across, down = values[:3]
    return State(size or (round(state.size[0] * across), round(state.size[1] * down)), state.mode)


def opencv_resize_frame(values: Values, size: Size) -> Affine:
    """Frame of `cv2.resize`."""
    wanted, across, down = values[:3]
    if wanted is None:
        return Affine(1 / across, 0.0, 0.0, 0.0, 1 / down, 0.0)
    return Affine(size[0] / wanted[0], 0.0, 0.0, 0.0, size[1] / wanted[1], 0.0)


def warp_frame(values: Values, size: Size) -> Affine | None:
    """Frame of `cv2.warpAffine`, whose matrix maps pixel centers to pixel centers."""
    (a, b, c), (d, e, f) = values[0].array.astype(float).tolist()
    determinant = a * e - b * d
    if abs(determinant) < 1e-9:
        return None
    a, b, d, e = e / determinant, -b / determinant, -d / determinant, a / determinant
    c, f = -(a * c + b * f), -(d * c + e * f)
    return Affine(a, b, c + 0.5 - 0.5 * (a + b), d, e, f + 0.5 - 0.5 * (d + e))


def bordered(values: Values, state: State) -> State:
    """State after `cv2.copyMakeBorder`."""
    top, bottom, left, right = values[:4]
    return State((state.size[0] + left + right, state.size[1] + top + bottom), state.mode)

"""The eight orientations of an image and affine frames between images.

An orientation names what is *done* to an image, counterclockwise as in Pillow. A frame is the affine map `(x, y) -> (a
x + b y + c, d x + e y + f)` from pixel coordinates of a result to those of its source; pixel (i, j) covers the
half-open square [i, i+1) x [j, j+1).
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

Size = tuple[int, int]
Box = tuple[float, float, float, float]

#: Each orientation as the 2x2 matrix that maps a result's centered (x, y) to its source's, y pointing down.
_MATRICES: dict[str, tuple[int, int, int, int]] = {
    "identity": (1, 0, 0, 1),
    "rotate_90": (0, -1, 1, 0),
    "rotate_180": (-1, 0, 0, -1),
    "rotate_270": (0, 1, -1, 0),
    "flip_horizontal": (-1, 0, 0, 1),
    "flip_vertical": (1, 0, 0, -1),
    "transpose": (0, 1, 1, 0),
    "transverse": (0, -1, -1, 0),
}
_NAMES = {matrix: name for name, matrix in _MATRICES.items()}

#: Names of the eight elements, identity first.
ORIENTATIONS: tuple[str, ...] = tuple(_MATRICES)

#: The Pillow constant of each orientation except identity.
PILLOW_TRANSPOSE = {
    "rotate_90": Image.Transpose.ROTATE_90,
    "rotate_180": Image.Transpose.ROTATE_180,
    "rotate_270": Image.Transpose.ROTATE_270,
    "flip_horizontal": Image.Transpose.FLIP_LEFT_RIGHT,
    "flip_vertical": Image.Transpose.FLIP_TOP_BOTTOM,
    "transpose": Image.Transpose.TRANSPOSE,
    "transverse": Image.Transpose.TRANSVERSE,
}


def compose(first: str, then: str) -> str:
    """The orientation that equals `first` followed by `then`."""
    a, b, c, d = _MATRICES[first]
    e, f, g, h = _MATRICES[then]
    return _NAMES[(a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h)]


def inverse(orientation: str) -> str:
    """The orientation that undoes `orientation`."""
    a, b, c, d = _MATRICES[orientation]
    return _NAMES[(a, c, b, d)]


def inverse_transform(name: str) -> str:
    """The tool that undoes a dataset transform; "crop" is undone by a crop."""
    return "crop" if name == "crop" else inverse(name)


def orient(image: Image.Image, orientation: str) -> Image.Image:
    """Apply one of the eight orientations, which only moves pixels."""
    return image.copy() if orientation == "identity" else image.transpose(PILLOW_TRANSPOSE[orientation])


@dataclass(frozen=True)
class Affine:
    """`(x, y) -> (a x + b y + c, d x + e y + f)`: pixels of a result to pixels of its source."""

    a: float = 1.0
    b: float = 0.0
    c: float = 0.0
    d: float = 0.0
    e: float = 1.0
    f: float = 0.0

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Map a point of the result to the source."""
        return self.a * x + self.b * y + self.c, self.d * x + self.e * y + self.f

    def then(self, outer: Affine) -> Affine:
        """The frame that maps through `self` first and through `outer` after it."""
        return Affine(
            outer.a * self.a + outer.b * self.d,
            outer.a * self.b + outer.b * self.e,
            outer.a * self.c + outer.b * self.f + outer.c,
            outer.d * self.a + outer.e * self.d,
            outer.d * self.b + outer.e * self.e,
            outer.d * self.c + outer.e * self.f + outer.f,
        )

    def box(self, box: Box) -> Box:
        """The axis-aligned bounds, in the source, of a box of the result."""
        x1, y1, x2, y2 = box
        points = [self.point(x, y) for x in (x1, x2) for y in (y1, y2)]
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        return min(xs), min(ys), max(xs), max(ys)

    def inverse(self) -> Affine:
        """The frame from source pixels to result pixels; raises ValueError if the map is singular."""
        determinant = self.a * self.e - self.b * self.d
        if abs(determinant) < 1e-12:
            raise ValueError(f"frame: expected an invertible map, got {self}")
        a, b = self.e / determinant, -self.b / determinant
        d, e = -self.d / determinant, self.a / determinant
        return Affine(a, b, -(a * self.c + b * self.f), d, e, -(d * self.c + e * self.f))


def orientation_frame(orientation: str, source_size: Size) -> Affine:
    """The frame of an orientation applied to an image of `source_size` (width, height)."""
    a, b, d, e = _MATRICES[orientation]
    width, height = source_size
    return Affine(a, b, width if a + b < 0 else 0.0, d, e, height if d + e < 0 else 0.0)


def orientation_of(frame: Affine, size: Size, slack: float = 1e-6) -> str | None:
    """The orientation of a frame that keeps sides straight, at any scale; None if it slants them.

    Args:
        frame: Maps pixels of the result to those of its source.
        size: Size of the result, (width, height).
        slack: Pixels by which a side may slant.
    """
    width, height = size
    if max(abs(frame.b) * height, abs(frame.d) * width) < slack:
        matrix = (_sign(frame.a), 0, 0, _sign(frame.e))
    elif max(abs(frame.a) * width, abs(frame.e) * height) < slack:
        matrix = (0, _sign(frame.b), _sign(frame.d), 0)
    else:
        return None
    return _NAMES.get(matrix)


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)

"""Images for a page: reduced, each encoded once, within a budget of bytes."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from sandbox.threads import count_cores

#: Longest sides in pixels, tried in turn until all images of a page fit in its budget.
_SIDES = (640, 448, 320, 224, 144, 96, 64)

#: Bytes of all images of a page; with base64 and the records, the page then stays below 30 MB.
BUDGET = 17_000_000

#: Evenly spread images for an estimate of the bytes; a side is skipped if the estimate is this many times the budget.
_N_FEW, _DOUBT = 24, 1.2

#: Images up to this many pixels are stored losslessly.
_LOSSLESS_PIXELS = 160 * 160

#: Larger files (width x height in pixels) are not decoded.
LARGEST_PIXELS = 120_000_000

Stored = dict[str, str | int]


def store(
    sources: Iterable[tuple[str, Path | Image.Image]],
    budget: int = BUDGET,
    track: Callable[[Sequence[str], str], Iterable[str]] = lambda names, title: names,
) -> dict[str, Stored]:
    """Encode images for a page.

    Args:
        sources: Name, and file or image; equal names are encoded once.
        budget: Bytes of all images, before base64.
        track: Yields the names one by one, and shows the progress under a title.

    Returns:
        Name -> `uri` (a data URI), `width` and `height` of the original. Images that cannot be read are left out.
    """
    distinct = dict(sources)
    few = list(distinct.values())[:: max(1, len(distinct) // _N_FEW)]
    for side in _SIDES:
        if side != _SIDES[-1] and _mean_bytes(few, side) * len(distinct) > _DOUBT * budget:
            continue
        stored: dict[str, Stored] = {}
        total = 0
        pool = ThreadPoolExecutor(count_cores())
        try:
            encodings = pool.map(lambda name, side=side: _encode(distinct[name], side), distinct)
            for name, encoded in zip(track([*distinct], f"images of {side} pixels"), encodings, strict=True):
                if encoded is None:
                    continue
                data, (width, height) = encoded
                total += len(data)
                if total > budget and side != _SIDES[-1]:
                    break
                uri = f"data:image/webp;base64,{base64.b64encode(data).decode('ascii')}"
                stored[name] = Stored(uri=uri, width=width, height=height)
            else:
                return stored
        finally:
            pool.shutdown(cancel_futures=True)
    return stored


def _mean_bytes(few: Sequence[Path | Image.Image], side: int) -> float:
    sizes = [len(encoded[0]) for source in few if (encoded := _encode(source, side)) is not None]
    return sum(sizes) / max(1, len(few))


def _encode(source: Path | Image.Image, side: int) -> tuple[bytes, tuple[int, int]] | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = source if isinstance(source, Image.Image) else Image.open(source)
            size = image.size
            if size[0] * size[1] > LARGEST_PIXELS:
                return None
            small = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    is_small = small.width * small.height <= _LOSSLESS_PIXELS
    small.save(buffer, "WEBP", quality=40 if is_small else 78, lossless=is_small, method=1)
    return buffer.getvalue(), size

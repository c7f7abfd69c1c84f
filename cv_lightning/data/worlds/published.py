"""Digests of the published items of MVTool-procedural, and a warning if an item is drawn differently.

Fonts, photographs, the text renderer and the decoder of photographs come from installed packages. Another version of a
package may draw other pixels, and other font metrics change the layout of pages.
"""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import features

from cv_lightning.console.versions import versions
from cv_lightning.types import Sample

#: The file of the digests.
PUBLISHED = Path(__file__).with_name("mvtool_procedural.json")


@dataclass(frozen=True)
class ItemDigest:
    """The digest of an item, in two parts.

    Attributes:
        facts: Digest of id, question, answer, family, transforms, box and size; the same at every scale.
        pixels: Digest of the upright page at scale 1; empty at other scales. Orientations are exact, so the upright
            page is enough.
    """

    facts: str
    pixels: str


@dataclass(frozen=True)
class Publication:
    """All items of a version.

    Attributes:
        items: Digests of the items, in order.
        drawn_with: Versions of the packages and libraries that drew the items.
    """

    items: tuple[ItemDigest, ...]
    drawn_with: Mapping[str, str]

    @property
    def version(self) -> str:
        """sha256 of all digests: it changes with any fact and with any pixel."""
        return hashlib.sha256("".join(item.facts + item.pixels for item in self.items).encode()).hexdigest()


def item_digest(upright: Sample, transforms: Sequence[str], scale: int) -> ItemDigest:
    """The digest of an item.

    Args:
        upright: The item before its image is transformed.
        transforms: Transforms of its image, in order.
        scale: Image pixels per logical pixel.
    """
    image, box = upright.images[0], upright.box or ()
    size = [side // scale for side in image.size]
    facts = [upright.id, upright.question, upright.answer, upright.family, *upright.transforms, *transforms]
    edges = [int(edge) // scale for edge in box]
    pixels = hashlib.sha256(image.tobytes()).hexdigest()[:16] if scale == 1 else ""
    return ItemDigest(hashlib.sha256(json.dumps([facts, edges, size]).encode()).hexdigest()[:16], pixels)


@cache
def publication() -> Publication:
    """The published version in this release."""
    content = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    return Publication(tuple(ItemDigest(*item.split()) for item in content["items"]), content["drawn_with"])


def drawn_with() -> dict[str, str]:
    """Versions of the packages and libraries that determine an item's pixels."""
    packages = versions(("pillow", "matplotlib", "scikit-learn", "numpy"))
    libraries = {"FreeType": "freetype2", "libjpeg-turbo": "libjpeg_turbo"}
    return packages | {name: str(features.version(feature)) for name, feature in libraries.items()}


def check_item(index: int, here: ItemDigest) -> None:
    """Warn if an item differs from the published item, once per process for each kind of difference."""
    published = publication().items[index]
    if here.facts != published.facts:
        _warn("has another layout, question or box than")
    elif here.pixels and here.pixels != published.pixels:
        _warn("is drawn with other pixels than")


@cache
def _warn(how: str) -> None:
    known = publication()
    others = [
        f"{name} {found} (published: {known.drawn_with.get(name)})"
        for name, found in drawn_with().items()
        if found != known.drawn_with.get(name)
    ]
    cause = (
        f"Drawn here with {', '.join(others)}. Install the published versions, or report"
        if others
        else "The versions are the published ones, so perhaps a font or a library file differs. Report"
    )
    warnings.warn(
        f"An item of MVTool-procedural {how} in its version {known.version[:12]}: results cannot be compared with "
        f"those of others. {cause} your versions with every result; "
        "`python -m cv_lightning.data.worlds.published` counts the items that differ.",
        UserWarning,
        stacklevel=2,
    )


def draw_all() -> Publication:
    """All items as drawn on this machine."""
    from cv_lightning.data.worlds.family_world import N_ITEMS, MVToolProcedural

    world = MVToolProcedural()
    return Publication(tuple(world.digest(index) for index in range(N_ITEMS)), drawn_with())


def main(arguments: Sequence[str]) -> int:
    """Compare all items with the published items, and return 1 if some differ; `--write` publishes this machine's."""
    here = draw_all()
    if "--write" in arguments:
        items = [f"{item.facts} {item.pixels}" for item in here.items]
        PUBLISHED.write_text(json.dumps({"drawn_with": here.drawn_with, "items": items}, indent=0) + "\n", "utf-8")
        publication.cache_clear()
    known = publication()
    pairs = list(zip(here.items, known.items, strict=True))
    n_other = sum(one.facts != other.facts for one, other in pairs)
    n_redrawn = sum(one.facts == other.facts and one.pixels != other.pixels for one, other in pairs)
    print(f"published: {known.version}\n  {_named(known.drawn_with)}")
    print(f"here:      {here.version}\n  {_named(here.drawn_with)}")
    print(f"{len(pairs)} items: {n_other} with other facts, {n_redrawn} with other pixels only")
    return int(here.version != known.version)


def _named(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

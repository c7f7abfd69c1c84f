"""Trajectories as one page: records and images as data, one script, no network access."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from cv_lightning.pages.shell import asset, render
from cv_lightning.viewer.pictures import Stored


def page(records: Sequence[Mapping[str, Any]], images: Mapping[str, Stored], title: str, note: str = "") -> str:
    """A self-contained page of trajectories.

    Args:
        records: Records in the format of docs/trajectories.md; `file` of an image is its name in `images`.
        images: The result of `pictures.store`.
        title: Title of the page, plain text.
        note: Shown below the title, plain text.
    """
    # "<" becomes a JSON escape, so that no data can end its HTML element.
    payload = json.dumps({"records": records, "images": images}).replace("<", "\\u003c")
    script = asset("viewer/render.js") + asset("viewer/viewer.js")
    return render("viewer/viewer.html", script, title=title, note=note, payload=Markup(payload))  # noqa: S704 - no markup

"""Trajectories as one page: records and images as data, one script, no network."""

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
        records: As docs/trajectories.md describes them; `file` of an image is its name in `images`.
        images: What `pictures.store` returned.
        title: Of the page, plain text.
        note: Shown below the title, plain text.
    """
    # "<" becomes an escape of JSON, so that nothing in the data can end its element.
    payload = json.dumps({"records": records, "images": images}).replace("<", "\\u003c")
    script = asset("viewer/render.js") + asset("viewer/viewer.js")
    return render("viewer/viewer.html", script, title=title, note=note, payload=Markup(payload))  # noqa: S704 - no markup

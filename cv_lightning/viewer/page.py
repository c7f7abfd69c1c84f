"""The page itself: records and images as data, one script and one style sheet, no network.

Only this script may run: the page's content security policy names its digest, should markup ever slip into the text.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from cv_lightning.viewer.pictures import Stored


def page(records: Sequence[Mapping[str, Any]], images: Mapping[str, Stored], title: str, note: str = "") -> str:
    """A self-contained page of trajectories.

    Args:
        records: As docs/trajectories.md describes them; `file` of an image is its name in `images`.
        images: What `pictures.store` made.
        title: Of the page, plain text.
        note: Shown below the title, plain text.
    """
    script = asset("render.js") + asset("viewer.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "form-action 'none'; base-uri 'none'"
    )
    # "<" is written as an escape of JSON, so nothing in the data can end its element.
    payload = json.dumps({"records": records, "images": images}).replace("<", "\\u003c")
    name = escape(title).encode("utf-8", "replace").decode()
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}</title>\n<style>\n{asset('viewer.css')}</style></head><body>\n"
        f'<header><h1>{name}</h1><p class="quiet">{escape(note).encode("utf-8", "replace").decode()}</p></header>\n'
        f'<script type="application/json" id="data">{payload}</script>\n<script>{script}</script>\n</body></html>\n'
    )


def asset(name: str) -> str:
    """A file of this package."""
    return files("cv_lightning.viewer").joinpath(name).read_text(encoding="utf-8")

"""Renders the project's pages from templates: one shell, one stylesheet, everything escaped."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

#: Colors of stages and runs in the stylesheet, --stage-0 and up. If there are more stages, they share colors.
N_COLORS = 14


def asset(name: str) -> str:
    """The text of a file, given its path inside the package: `viewer/render.js`."""
    return files("cv_lightning").joinpath(name).read_text(encoding="utf-8")


def render(template: str, script: str = "", **values: Any) -> str:
    """Render a page that loads nothing from other places.

    Its content security policy allows only `script` to run, in case markup ever gets into the text.

    Args:
        template: Path inside the package of a template that extends `pages/shell.html`.
        script: JavaScript of the page.
        **values: Values for the template, which escapes them; a `Markup` is already HTML. Lone surrogates become "?".
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii") if script else ""
    page = _environment().get_template(template).render(script=Markup(script), digest=digest, **values)  # noqa: S704 - ours
    return page.encode("utf-8", "replace").decode("utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(asset), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["n_colors"] = N_COLORS
    environment.globals["style"] = Markup(asset("pages/style.css"))  # noqa: S704 - a file of ours
    return environment

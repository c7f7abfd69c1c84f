"""One shell for all pages: everything is escaped, nothing is loaded, only the page's own script may run."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import pytest

import cv_lightning
from cv_lightning.pages.shell import N_COLORS, asset, render

PACKAGE = Path(cv_lightning.__file__).parent
TEMPLATES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.html"))
PARTS = {"pages/shell.html", "pages/parts.html"}


@pytest.mark.parametrize("name", sorted(set(TEMPLATES) - PARTS))
def test_every_page_extends_the_shell_and_trusts_no_text(name: str) -> None:
    text = asset(name)
    assert text.startswith('{% extends "pages/shell.html" %}')
    assert not re.search(r"\|\s*safe\b|autoescape", text)
    assert "<style" not in text, "there is one stylesheet"


def test_there_are_five_pages() -> None:
    assert len(set(TEMPLATES) - PARTS) == 5


def test_text_is_escaped_and_half_a_character_does_no_harm() -> None:
    page = render("viewer/viewer.html", title="</title><b>", note="\ud800 <i>", payload="{}")
    assert "<title>&lt;/title&gt;&lt;b&gt;</title>" in page
    assert "? &lt;i&gt;" in page
    page.encode("utf-8")


def test_only_the_script_of_the_page_may_run() -> None:
    script = "document.title = '<b>' + 1 < 2;"
    page = render("viewer/viewer.html", script, title="t", note="", payload="{}")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in page
    assert f"<script>{script}</script>" in page
    assert "script-src 'none';" in render("viewer/viewer.html", title="t", note="", payload="{}")


def test_the_stylesheet_knows_both_schemes_and_loads_nothing() -> None:
    style = asset("pages/style.css")
    assert "prefers-color-scheme: dark" in style
    assert "max-width: 760px" in style
    assert not re.search(r"@import|url\(", style)
    light, dark = (set(re.findall(r"(--[\w-]+):", part)) for part in style.split("@media (prefers-color-scheme: dark)"))
    assert light == dark
    assert set(re.findall(r"var\((--[\w-]+)\)", style)) <= light
    assert {name for name in light if name.startswith("--stage-")} == {f"--stage-{n}" for n in range(N_COLORS)}
    for part in style.split("@media (prefers-color-scheme: dark)"):
        colors = re.findall(r"--stage-\d+: (#\w+)", part)
        assert len(set(colors)) == N_COLORS

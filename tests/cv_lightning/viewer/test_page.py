"""The page of records, and how it is used in a browser."""

from __future__ import annotations

import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cv_lightning.viewer.command import write
from cv_lightning.viewer.page import page
from tests.cv_lightning.browser import CHROMIUM, Browser, needs_chromium
from tests.cv_lightning.viewer.made_records import a_record, written

HOSTILE = (
    "</script></title><script>document.title='broken'</script><img src=x onerror=alert(1)>"
    "<!-- \u202e\ud800\x00 &lt;b&gt;"
)


class Elements(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]


def test_text_of_a_policy_is_data_and_never_markup() -> None:
    records = [a_record(question=HOSTILE, answer=HOSTILE, family=HOSTILE, id=HOSTILE)]
    text = page(records, {}, HOSTILE, HOSTILE)
    tags = Elements(text).tags
    assert set(tags) == {"html", "head", "meta", "title", "style", "body", "header", "h1", "p", "script"}
    assert tags.count("script") == 2
    payload = text.split('id="data">')[1].split("</script>")[0]
    assert json.loads(payload)["records"] == records
    assert "default-src 'none'" in text


def browse(target: Path, fragment: str = "", *options: str) -> str:
    """The document in a browser after its script has run."""
    arguments = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=4000", *options]
    arguments += [f"--user-data-dir={target.parent / 'profile'}", "--dump-dom", f"{target.as_uri()}#{fragment}"]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=True).stdout


@needs_chromium
def test_a_browser_shows_filters_turns_boxes_and_group_mates(tmp_path: Path) -> None:
    wrong = a_record(rollout=1, is_right=False, answer=HOSTILE, reward=0.0, terms={"accuracy": 0.0}, id="second")
    other = a_record(group=1, family="charts", question="How high is it?", id="third")
    target = write(written(tmp_path / "run", a_record(), wrong, other), tmp_path / "page.html")
    document = browse(target, "t=1")
    assert "3 of 3 trajectories" in document
    assert 'data-ready-ms="' in document, "the script ran to its end"
    assert "<title>run</title>" in document, "and that of the policy did not"
    assert "&lt;img src=x onerror=alert(1)&gt;" in document
    assert "Group mates (2)" in document
    assert '<span class="n">180</span>' in document, "code is highlighted"
    assert "ok: rotate_180 (kornia lane, close, kornia 0.9.1)" in document
    # The box (0, 0, 10, 20) of the question's image is in the opposite corner of the image turned by 180.
    assert 'points="0,0 10,0 10,20 0,20"' in document
    assert 'points="60,40 50,40 50,20 60,20"' in document
    filtered = browse(target, "family=charts")
    assert "1 of 3 trajectories" in filtered
    assert "How high is it?" in filtered
    assert "No trajectory matches these filters." in browse(target, "text=nobody+wrote+this")


@needs_chromium
def test_images_of_a_question_are_shown_between_its_words(tmp_path: Path) -> None:
    question = [{"file": f"images/{name}.png", "turn": -1, "width": 60, "height": 40, "root": n, "frame": None}
                for n, name in enumerate("ab")]  # fmt: skip
    record = a_record(question="<image> is Monday, <image> is Friday", images=question)
    document = browse(write(written(tmp_path / "run", record), tmp_path / "page.html"))
    heading = re.sub(r'src="[^"]*"', "", document.partition('class="trajectory"')[2].partition("</h2>")[0])
    places = [re.search(text, heading) for text in ("image 0", " is Monday, ", "image 1", " is Friday")]
    assert all(places)
    assert [place.start() for place in places if place] == sorted(place.start() for place in places if place)
    assert heading.count("<img") == 2
    assert "&lt;image&gt;" not in heading


@needs_chromium
def test_keys_move_through_a_page_that_fits_its_window_and_whose_fields_have_names(tmp_path: Path) -> None:
    records = [a_record(group=index, id=f"id-{index}") for index in range(12)]
    target = write(written(tmp_path / "run", *records), tmp_path / "page.html")
    unnamed = (
        "[...document.querySelectorAll('button,select,input,summary,[tabindex]:not(main)')].filter((one) => "
        "!one.labels?.length && !one.textContent.trim() && !one.getAttribute('aria-label')).length"
    )
    for width in (1200, 390):
        with Browser(tmp_path / f"profile-{width}", width, is_dark=width < 700) as browser:
            browser.open(target.as_uri())
            browser.wait("document.body.dataset.readyMs")
            assert browser.run("document.documentElement.scrollWidth") == width
            if width > 700:
                assert browser.run("document.documentElement.scrollHeight") == 800, (
                    "list and detail scroll, not the page"
                )
            browser.press("j", 74)
            browser.press("j", 74)
            assert browser.run("location.hash") == "#t=2"
            browser.press("k", 75)
            assert "id-1" in browser.run("document.getElementById('detail').innerText")
            browser.press("/", 191)
            assert browser.run("document.activeElement.id") == "search"
            assert browser.run(unnamed) == 0
            assert browser.run("[...document.images].filter((image) => !image.alt).length") == 0


@pytest.mark.slow
@needs_chromium
def test_500_trajectories_stay_below_30_megabytes_and_are_ready_in_two_seconds(tmp_path: Path) -> None:
    folder = written(tmp_path / "run")
    random = np.random.default_rng(0)
    records = []
    for n in range(500):
        images = []
        for turn in (-1, 0):
            coarse = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8))
            grain = random.integers(-12, 13, (768, 1024, 1))
            pixels = np.asarray(coarse.resize((1024, 768), Image.Resampling.BICUBIC)) + grain
            file = f"images/{n}_{turn + 1}.png"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / file, compress_level=1)
            images.append({"file": file, "turn": turn, "width": 1024, "height": 768, "root": 0})
        records.append(a_record(id=f"id-{n}", group=n // 4, rollout=n % 4, images=images))
    target = write(written(folder, *records), tmp_path / "page.html")
    times_ms = []
    for n in range(3):
        with Browser(tmp_path / f"profile-{n}") as browser:
            browser.open(target.as_uri())
            browser.wait("document.body.dataset.readyMs")
            times_ms.append(int(browser.run("document.body.dataset.readyMs")))
    print(f"{target.stat().st_size / 1e6:.1f} MB, ready after {sorted(times_ms)} ms")
    assert target.stat().st_size < 30e6
    assert min(times_ms) < 2000

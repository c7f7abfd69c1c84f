"""The page of trajectories: what it reads, what it leaves out, and what a browser makes of it."""

from __future__ import annotations

import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cv_lightning.__main__ import main as command_line
from cv_lightning.errors import ConfigError, DataError
from cv_lightning.viewer.command import main, write
from cv_lightning.viewer.page import page
from cv_lightning.viewer.pictures import store
from cv_lightning.viewer.records import find, read
from tests.cv_lightning.browser import CHROMIUM, Browser, needs_chromium

HOSTILE = (
    "</script></title><script>document.title='broken'</script><img src=x onerror=alert(1)>"
    "<!-- \u202e\ud800\x00 &lt;b&gt;"
)


def a_record(**changes: Any) -> dict[str, Any]:
    turns = [
        {
            "text": "<think>Upside down.</think>\n<tool_call>...</tool_call>",
            "call": {"code": "result = image.rotate(180)  # turn", "description": ""},
            "image_index": 0,
            "fault": None,
            "credit": {"accuracy": 0.0, "mandatory": 1.0},
            "observation": {"status": "ok", "text": "", "tools": ["rotate_180"], "lane": "kornia"}
            | {"exactness": "close", "library": "kornia 0.9.1"},
        },
        {
            "text": "<think>Upright.</think>\n<answer>F7G</answer>",
            "call": None,
            "fault": None,
            "credit": {"accuracy": 1.0, "mandatory": 0.0},
            "observation": None,
        },
    ]
    images = [
        {"file": "images/a.png", "turn": -1, "width": 60, "height": 40, "root": 0, "frame": [1, 0, 0, 0, 1, 0]},
        {"file": "images/b.png", "turn": 0, "width": 60, "height": 40, "root": 0, "frame": [-1, 0, 60, 0, -1, 40]},
    ]
    record = {"schema": 2, "kind": "best", "step": 3, "group": 0, "rollout": 0, "id": "p-1", "family": "plates"}
    record |= {"question": "Read the text.", "truth": "F7G", "answer": "F7G", "is_right": True, "reward": 2.0}
    record |= {"terms": {"accuracy": 1.0, "mandatory": 1.0}, "transforms": ["rotate_180"], "box": [0, 0, 10, 20]}
    return record | {"stop_reason": "answered", "emergent": [], "images": images, "turns": turns} | changes


def written(folder: Path, *records: dict[str, Any], extra: str = "") -> Path:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (60, 40), "white").save(folder / "images" / "a.png")
    Image.new("RGB", (60, 40), "gray").save(folder / "images" / "b.png")
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "trajectories.jsonl").write_text(lines + extra, encoding="utf-8")
    return folder


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


def test_records_of_all_steps_are_found_in_order(tmp_path: Path) -> None:
    for step in (1, 20, 100):
        written(tmp_path / "trajectories" / f"step_{step:08d}", a_record(step=step))
    found = read(find(tmp_path))
    assert [record["step"] for record in found.records] == [1, 20, 100]
    assert set(found.images) == {"a.png", "b.png"}


def test_a_record_without_its_step_takes_that_of_its_folder(tmp_path: Path) -> None:
    record = a_record()
    del record["step"]
    found = read(find(written(tmp_path / "step_00000012", record)))
    assert found.records[0]["step"] == 12


def test_a_line_that_is_cut_off_is_named_and_the_others_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = written(tmp_path, a_record(), extra='{"turns": [{"te')
    assert main([str(target)]) == 0
    shown = capsys.readouterr()
    assert "line 2: not a whole record" in shown.err
    assert "1 broken lines were left out" in Path(shown.out.strip()).read_text(encoding="utf-8")


@pytest.mark.parametrize("line", ["", "[]", "{}", '{"images": 1, "turns": []}', "[" * 5000, "\x00"])
def test_a_file_without_any_record_is_refused_by_name(tmp_path: Path, line: str) -> None:
    path = tmp_path / "trajectories.jsonl"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(DataError, match=r"trajectories\.jsonl: holds no trajectory"):
        write(path, tmp_path / "page.html")


def test_what_is_not_there_is_named_with_a_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(["view", str(tmp_path / "nowhere")]) == 1
    assert "or a run id of MLflow" in capsys.readouterr().err
    assert command_line(["view", str(tmp_path)]) == 1
    assert "no trajectories.jsonl below it" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="--most: expected at least 1 but got 0"):
        main([str(written(tmp_path / "run", a_record())), "--most", "0"])
    with pytest.raises(ConfigError, match="there is no folder"):
        main([str(tmp_path / "run"), "--out", str(tmp_path / "no" / "such" / "folder.html")])


def test_a_record_names_files_of_its_own_folder_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    images = [{"file": name, "turn": -1} for name in ("../secret.png", "images/../../secret.png", "/etc/passwd")]
    target = written(tmp_path / "run", a_record(images=images))
    assert read(find(target)).images == {}
    main([str(target)])
    assert "3 images are missing" in capsys.readouterr().err


def test_only_the_newest_are_shown(tmp_path: Path) -> None:
    target = written(tmp_path, *[a_record(step=step, id=f"id-{step}") for step in range(6)])
    text = write(target, tmp_path / "page.html", most=2).read_text(encoding="utf-8")
    assert "2 trajectories of 6, the newest" in text
    assert [f"id-{step}" in text for step in range(6)] == [False] * 4 + [True] * 2


def test_images_are_encoded_once_and_made_small_enough_for_the_budget(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 600, 700, 3), dtype=np.uint8)
    sources = [(f"{index}.png", Image.fromarray(pixels)) for index, pixels in enumerate(noise)]
    stored = store(sources + sources, budget=300_000)
    assert len(stored) == 20
    assert 100_000 < sum(len(str(image["uri"])) * 3 / 4 for image in stored.values()) < 310_000
    assert {(image["width"], image["height"]) for image in stored.values()} == {(700, 600)}


def test_extreme_and_broken_images_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    extreme = {"long": Image.new("L", (60_000, 2)), "dot": Image.new("1", (1, 1)), "palette": Image.new("P", (9, 9))}
    Image.new("1", (20_000, 7_000)).save(tmp_path / "huge.png")
    files = [(name, tmp_path / f"{name}.png") for name in ("broken", "gone", "huge")]
    stored = store([*files, *extreme.items()])
    assert set(stored) == set(extreme)
    assert stored["long"]["width"] == 60_000


def browse(target: Path, fragment: str = "", *options: str) -> str:
    """The document as a browser has it once its script has run."""
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
    # The box (0, 0, 10, 20) of the question's image lies in the opposite corner of the one that was turned by 180.
    assert 'points="0,0 10,0 10,20 0,20"' in document
    assert 'points="60,40 50,40 50,20 60,20"' in document
    filtered = browse(target, "family=charts")
    assert "1 of 3 trajectories" in filtered
    assert "How high is it?" in filtered
    assert "No trajectory passes these filters." in browse(target, "text=nobody+wrote+this")


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

"""`data check` describes a file and lists every fault with its row."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cv_lightning.__main__ import main
from cv_lightning.data import rows as rows_module
from tests.cv_lightning.data.checked import Check, row


def test_a_good_file(check: Check) -> None:
    status, out = check([row(0, transforms=["rotate_90"], box=[0, 0, 20, 15]), *(row(n) for n in range(1, 6))])
    assert status == 0
    assert "plain rows" in out
    assert "6 rows" in out
    assert out.count("question    What") == 3
    assert "[0.0, 0.0, 20.0, 15.0], 25 % of the image" in out
    assert "good rows: 6 of 6, 1 with a box" in out
    assert "transforms: none 5, rotate_90 1" in out
    assert "faults: 0" in out


def test_every_fault_is_listed_with_its_row(check: Check) -> None:
    bad = [
        row(0),
        row(1, images=["gone.png"]),
        row(2, box=[0, 0, 41, 30]),
        row(3, transforms=["rotate_45"], answer=""),  # two faults in one row
        "{broken",
        row(0),  # a repeated id
        row(6),
    ]
    status, out = check(bad)
    assert status == 1
    assert "good rows: 3 of 7" in out
    assert "faults: 6" in out
    faults = [line.strip() for line in out.partition("faults: 6")[2].splitlines() if "rows.jsonl, line" in line]
    expected = [
        "line 2: image",
        "line 3 (id 'q2'): box: expected",
        "line 4: the row has no answer",
        "line 4: transforms: expected",
        "line 5: not a JSON object",
        "line 6: the id 'q0'",
    ]
    assert len(faults) == len(expected)
    assert all(words in fault for words, fault in zip(expected, faults, strict=True)), faults


def test_a_long_list_is_cut_and_the_report_is_whole(check: Check, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    status, out = check([row(n, answer="") for n in range(9)], "--faults", "2", "--report", str(report))
    assert status == 1
    assert "... and 7 more" in out
    found = json.loads(report.read_text(encoding="utf-8"))
    assert (found["format"], found["rows"], found["good"], len(found["faults"])) == ("plain", 9, 0, 9)


def test_rows_without_images(check: Check) -> None:
    status, out = check([row(0, images=[], question="How many?")])
    assert status == 0
    assert "images      none" in out
    assert "box         none" in out


def test_notices_are_cut_as_faults_are(check: Check, tmp_path: Path) -> None:
    Image.new("CMYK", (9, 9)).save(tmp_path / "a.jpg")
    _, out = check([row(n, images=["a.jpg"]) for n in range(5)], "--faults", "2")
    assert "notices: 5" in out
    assert out.count("an image of mode CMYK") == 2
    assert "... and 3 more" in out


def test_only_the_first_rows(check: Check) -> None:
    status, out = check([*(row(n) for n in range(5)), "nonsense"], "--rows", "5")
    assert status == 0
    assert "good rows: 5 of 5" in out


def test_odd_images_are_used_and_named(check: Check, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (9, 9), (shade, 0, 0)) for shade in (0, 90, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    Image.new("CMYK", (9, 9), (0, 255, 255, 0)).save(tmp_path / "b.jpg")
    status, out = check([row(0, images=["a.gif"]), row(1, images=["b.jpg"])])
    assert status == 0
    assert "line 1: an animated image: the first of its 3 frames is used" in out
    assert "line 2: an image of mode CMYK: converted to RGB" in out


def test_all_images_and_turns_of_a_conversation_are_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")

    def conversation(call: str, image: str) -> dict[str, Any]:
        texts = ["<image>What?", f"<tool_call>{call}</tool_call>", "<image>", "<answer>x</answer>"]
        authors = ["human", "gpt", "tool", "gpt"]
        turns = [{"from": author, "value": text} for author, text in zip(authors, texts, strict=True)]
        return {"conversations": turns, "images": ["a.png", image]}

    call = json.dumps({"name": "code_image_tool", "arguments": {"code": "result = image"}})
    rows = [conversation(call, "a.png"), conversation(call, "gone.png"), conversation("{", "a.png")]
    named = [json.dumps({"name": "rotate", "arguments": {"angle": angle}}) for angle in (90, "left")]
    rows += [conversation(call, "a.png") for call in named]
    (tmp_path / "sft.json").write_text(json.dumps(rows), encoding="utf-8")
    assert main(["data", "check", str(tmp_path / "sft.json")]) == 1
    out = capsys.readouterr().out
    assert "CodeVision-SFT (ShareGPT) (codevision_sft), 5 rows" in out
    assert "good rows: 4 of 5" in out
    assert f"row 1: image {tmp_path / 'gone.png'} does not exist" in out
    assert "row 2: turn 0 of the policy: The tool call is not valid JSON" in out
    assert "row 3: turn" not in out, "a named tool is a tool too"
    assert "row 4: turn 0 of the policy: TypeError: angle must be a number" in out


def test_an_image_too_large_is_refused_before_it_is_decoded(check: Check, tmp_path: Path) -> None:
    header = BytesIO()
    Image.new("1", (20_000, 15_000)).save(header, "PNG")  # 300 megapixels
    (tmp_path / "huge.png").write_bytes(header.getvalue())
    Image.new("1", (12_000, 9_000)).save(tmp_path / "large.png")  # 108 megapixels: Pillow itself would decode it
    status, out = check([row(0, images=["huge.png"]), row(1, images=["large.png"]), row(2)])
    assert status == 1
    assert "good rows: 1 of 3" in out
    assert f"at most {rows_module.MAX_MEGAPIXELS} megapixels" in out
    assert "large.png cannot be read, it is too large (12000 x 9000 pixels)" in out


@pytest.mark.parametrize("kind", ["cut", "text"])
def test_a_broken_parquet_file_says_so(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"question": ["a"] * 50, "images": [["a.png"]] * 50}), path)
    path.write_bytes(path.read_bytes()[:-40] if kind == "cut" else b"this is no parquet file at all")
    assert main(["data", "check", str(path)]) == 1
    assert "x.parquet: truncated or not a Parquet file" in capsys.readouterr().err


def test_pages_that_are_broken_are_faults_and_the_rest_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    rows = [{"id": str(n), "question": "What is it?", "images": ["a.png"], "answer": f"{n}" * 50} for n in range(40)]
    path = tmp_path / "x.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=10, compression="snappy", use_dictionary=False)
    column = pq.ParquetFile(path).metadata.row_group(1).column(3)
    data = bytearray(path.read_bytes())
    start = column.data_page_offset
    data[start + 5 : start + column.total_compressed_size] = b"\xff" * (column.total_compressed_size - 5)
    path.write_bytes(bytes(data))
    assert main(["data", "check", str(path)]) == 1
    out = capsys.readouterr().out
    assert "good rows: 30 of 40" in out
    assert "the file is broken in the 10 rows that start here" in out


def test_what_would_fail_while_training_is_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, size in (("a", (9, 9)), ("wide", (600, 3)), ("thread", (603, 3))):
        Image.new("RGB", size).save(tmp_path / f"{name}.png")

    def row(image: str, *replies: str) -> dict[str, object]:
        turns = [{"role": "user", "content": "<image>What?"}]
        for reply in replies:
            turns += [{"role": "assistant", "content": reply}, {"role": "tool", "content": "no"}]
        return {"messages": turns[:-1], "images": [f"{image}.png"]}

    answer = "<think>x</think><answer>b</answer>"
    rows = [
        row("wide", answer),
        row("thread", answer),
        row("a", f"{answer}<|image_pad|>"),
        row("a", answer, answer),
        row("a", '<tool_call>{"name": "code_image_tool", "arguments": {"code": "x"}</tool_call>', answer),
        row("a", "no</think><tool_call>```json\n" + json.dumps({"name": "code_image_tool", "arguments": "{}"}), answer),
    ]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    assert main(["data", "check", str(path)]) == 1
    out = capsys.readouterr().out
    assert "faults: 2" in out
    assert "row 1: image" in out
    assert "603 x 3 pixels; expected sides that differ by a factor of 200" in out
    assert "row 2: turn 1 contains the control token <|image_pad|>" in out
    assert "row 3: turn 0 of the policy: it answers, so a rollout would end here" in out
    assert "row 4: turn 0 of the policy: The tool call is not valid JSON: a closing brace or quote is missing" in out
    assert 'row 5: turn 0 of the policy: "code" must be a string.' in out

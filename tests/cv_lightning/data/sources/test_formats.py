"""Small files in exactly the published schemas become the right samples."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cv_lightning.data.sources import FORMATS, FileSource, Rows
from cv_lightning.errors import ConfigError, DataError
from cv_lightning.grading.benchmarks import grade
from cv_lightning.types import Sample

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def png(seed: int = 0, width: int = 40, height: int = 30) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def text64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def is_image(sample: Sample, seed: int = 0, place: int = 0) -> bool:
    expected = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    return np.array_equal(np.asarray(sample.images[place]), expected)


Write = Callable[[str, Any], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """(file name, rows) -> the path of a file of the kind that its suffix says."""

    def write_rows(name: str, rows: Any) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            pq.write_table(rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows), path)
        elif path.suffix == ".json":
            path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
        elif path.suffix == ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        elif path.suffix == ".tsv":
            lines = ["\t".join(rows[0]), *("\t".join(map(str, row.values())) for row in rows)]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        else:
            path.write_bytes(rows)
        return str(path)

    return write_rows


CODEVISION = {
    "prompt": [{"role": "user", "content": "<image>\nWhat does the sign say?"}],
    "images": [{"bytes": png(), "path": None}],
    "data_source": "codevision",
    "ability": "vqa",
    "reward_model": {"ground_truth": "EXIT", "style": "model"},
    "extra_info": {
        "answer": "EXIT",
        "bbox": [4, 5, 12, 9],
        "dataset_name": "textvqa",
        "index": 17,
        "question": "What does the sign say?",
        "split": "train",
        "transform": ["crop", "rotate_90"],
    },
}


def test_codevision_rl_and_mvtoolbench(write: Write) -> None:
    path = write("rl.parquet", [CODEVISION])
    assert Rows(path).format.name == "codevision"
    sample = FileSource(test=path, strict=True).sample("test", 0)
    assert is_image(sample)
    assert (sample.id, sample.question, sample.answer) == ("codevision-train-17", "What does the sign say?", "EXIT")
    assert (sample.transforms, sample.box, sample.family) == (("crop", "rotate_90"), (4.0, 5.0, 12.0, 9.0), "textvqa")
    assert sample.required_tools == {"crop", "rotate_270"}
    upright = FileSource(test=path, strict=True).sample("test", 0, ())
    assert upright.transforms == ("crop",)
    assert upright.images[0].size == (30, 40)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"transform": [], "bbox": []}, {"transforms": (), "box": None}),
        ({"transform": None, "bbox": None}, {"transforms": (), "box": None}),
        ({"bbox": [[4, 5, 12, 9]]}, {"box": (4.0, 5.0, 12.0, 9.0)}),
        ({"question": None}, {"question": "What does the sign say?"}),
    ],
)
def test_codevision_rows_without_metadata(changes: Any, expected: dict[str, Any], write: Write) -> None:
    row = CODEVISION | {"extra_info": CODEVISION["extra_info"] | changes}  # type: ignore[operator]
    sample = FileSource(test=write("rl.parquet", [row]), strict=True).sample("test", 0)
    assert {name: getattr(sample, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"extra_info": {**CODEVISION["extra_info"], "transform": ["shear"]}}, "unknown transform 'shear'"),  # type: ignore[dict-item]
        ({"extra_info": {**CODEVISION["extra_info"], "bbox": [0, 0, 50, 9]}}, "not inside its image of 40 x 30"),  # type: ignore[dict-item]
        ({"reward_model": {"ground_truth": ""}, "extra_info": {"answer": "", "question": "?"}}, "has no answer"),
        ({"images": []}, "no image"),
        ({"images": [{"bytes": b"no image", "path": None}]}, "cannot be read"),
        ({"images": [{"bytes": png()[:300], "path": None}]}, "truncated"),
        ({"images": [{"bytes": None, "path": "gone.png"}]}, "gone.png does not exist"),
    ],
)
def test_codevision_faults_name_the_row(changes: Any, words: str, write: Write) -> None:
    path = write("rl.parquet", [CODEVISION | changes])
    with pytest.raises(DataError, match=rf"rl\.parquet, row 0.*{words}"):
        FileSource(test=path, strict=True).sample("test", 0)


CONVERSATION = {
    "conversations": [
        {"from": "system", "value": "You are a helpful assistant."},
        {"from": "human", "value": "<image>What is written?"},
        {"from": "gpt", "value": '<think>t</think>\n<tool_call>\n{"name": "code_image_tool"}\n</tool_call>'},
        {"from": "tool", "value": "<tool_response>\n<image></tool_response>"},
        {"from": "gpt", "value": "<think>now</think>\n<answer> FJ7 </answer>"},
    ],
    "images": ["a/0.png", "a/1.png"],
}


@pytest.mark.parametrize("name", ["sft.json", "sft.jsonl"])
def test_codevision_sft(name: str, write: Write) -> None:
    write("a/0.png", png(0))
    write("a/1.png", png(1))
    path = write(name, [CONVERSATION, CONVERSATION])
    assert Rows(path).format.name == "codevision_sft"
    source = FileSource(test=path, strict=True)
    assert source.size("test") == 2
    for index in range(2):
        sample = source.sample("test", index)
        assert (sample.question, sample.answer, len(sample.images)) == ("What is written?", "FJ7", 1)
        assert is_image(sample)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": ["a/0.png"]}, "2 <image> placeholders but 1 images"),
        ({"conversations": []}, "expected a list of turns"),
        ({"conversations": [{"role": "user"}]}, "turn 0: expected"),
        ({"conversations": CONVERSATION["conversations"][:4]}, "the last turn is from 'tool'"),
        (
            {
                "conversations": [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "x"}],
                "images": ["a/0.png"],
            },
            "no answer",
        ),
        ({"images": ["a/0.png", "a/1.png"], "conversations": None}, "expected a list of turns"),
    ],
)
def test_codevision_sft_faults_name_the_row(changes: Any, words: str, write: Write) -> None:
    write("a/0.png", png(0))
    path = write("sft.json", [CONVERSATION | changes])
    with pytest.raises(DataError, match=rf"sft\.json, row 0: .*{words}"):
        FileSource(test=path, format="codevision_sft", strict=True).sample("test", 0)


def ocrbench_rows() -> dict[str, Any]:
    hub = {
        "dataset": "IIIT5K",
        "question": "what is written in the image?",
        "question_type": "Regular Text Recognition",
        "answer": ["CENTRE", "centre"],
        "image": {"bytes": png(), "path": "0.png"},
    }
    file = {
        "dataset_name": "IIIT5K",
        "id": 3,
        "question": "what is written in the image?",
        "answers": ["CENTRE", "centre"],
        "type": "Regular Text Recognition",
        "image_path": "images/0.png",
    }
    table = {
        "index": 3,
        "image": text64(png()),
        "question": "what is written in the image?",
        "answer": "['CENTRE', 'centre']",
        "category": "Regular Text Recognition",
    }
    return {"test.parquet": hub, "OCRBench.json": file, "OCRBench.tsv": table}


@pytest.mark.parametrize("name", ocrbench_rows())
def test_ocrbench(name: str, write: Write) -> None:
    write("images/0.png", png())
    path = write(name, [ocrbench_rows()[name]])
    assert Rows(path).format.name == "ocrbench"
    sample = FileSource(test=path, strict=True).sample("test", 0)
    assert is_image(sample)
    assert (sample.question, sample.answer) == ("what is written in the image?", "CENTRE")
    assert (sample.alternatives, sample.rule) == (("centre",), "contains")
    assert sample.family == "Regular Text Recognition"


def test_ocrbench_formulas_have_a_rule_of_their_own(write: Write) -> None:
    row = ocrbench_rows()["OCRBench.json"] | {"dataset_name": "HME100k", "answers": "x ^ 2"}
    write("images/0.png", png())
    sample = FileSource(test=write("OCRBench.json", [row]), strict=True).sample("test", 0)
    assert (sample.rule, sample.answer) == ("contains_formula", "x ^ 2")


def test_chartqapro(write: Write) -> None:
    rows = [
        {
            "Question": ["Which year?"],
            "Answer": ["2016"],
            "Question Type": "Factoid",
            "image": png(),
            "Year": ["YES"],
            "Paragraph": "",
        },
        {
            "Question": ["Who leads?", "By how much?"],
            "Answer": ["Spain", "12."],
            "Question Type": "Conversational",
            "image": png(1),
            "Year": ["NO", "NO"],
            "Paragraph": "A report.",
        },
    ]
    path = write("test.parquet", rows)
    assert Rows(path).format.name == "chartqapro"
    source = FileSource(test=path, strict=True)
    first, second = source.sample("test", 0), source.sample("test", 1)
    assert is_image(first)
    assert (first.question, first.answer, first.rule) == ("Which year?", "2016", "chartqapro:year")
    assert second.question == "A report.\nWho leads?\nSpain\nBy how much?"
    assert (second.answer, second.family, second.rule) == ("12", "Conversational", "chartqapro:")


QUESTION = (
    "What is the color?\n(A) red\n(B) light blue\nAnswer with the option's letter from the given choices directly."
)


def test_vstar_with_its_boxes(write: Write) -> None:
    write("direct_attributes/sa_1.png", png())
    write("direct_attributes/sa_1.json", {"target_object": ["a", "b"], "bbox": [[1, 2, 3, 4], [10, 5, 6, 7]]})
    write("relative_position/sa_2.png", png(1))
    rows = [
        {
            "image": "direct_attributes/sa_1.png",
            "text": QUESTION,
            "category": "direct_attributes",
            "label": "B",
            "question_id": "0",
        },
        {
            "image": "relative_position/sa_2.png",
            "text": QUESTION,
            "category": "relative_position",
            "label": "A",
            "question_id": "1",
        },
    ]
    path = write("test_questions.jsonl", rows)
    assert Rows(path).format.name == "vstar"
    source = FileSource(test=path, strict=True)
    first, second = source.sample("test", 0), source.sample("test", 1)
    assert is_image(first)
    assert (first.id, first.question, first.answer) == ("0", QUESTION, "B")
    assert (first.alternatives, first.rule, first.family) == (("light blue",), "choice", "direct_attributes")
    assert (first.box, second.box) == ((1.0, 2.0, 16.0, 12.0), None)


def test_vstar_as_parquet(write: Write) -> None:
    row = {"image": {"bytes": png(), "path": None}, "text": QUESTION, "category": "c", "label": "A", "question_id": "7"}
    sample = FileSource(test=write("vstar.parquet", [row]), strict=True).sample("test", 0)
    assert is_image(sample)
    assert (sample.id, sample.answer, sample.alternatives) == ("7", "A", ("red",))


HRBENCH = {
    "index": 5,
    "question": "What is on the roof?",
    "answer": "C",
    "category": "single",
    "A": "a cat",
    "B": "a dog",
    "C": "a bird",
    "D": "nothing",
    "cycle_category": "single",
    "image": text64(png()),
}


@pytest.mark.parametrize("name", ["hr_bench_4k.tsv", "hr_bench_8k.parquet"])
def test_hrbench(name: str, write: Write) -> None:
    path = write(name, [HRBENCH])
    assert Rows(path).format.name == "hrbench"
    sample = FileSource(test=path, strict=True).sample("test", 0)
    assert is_image(sample)
    assert sample.question == "What is on the roof?\n(A) a cat\n(B) a dog\n(C) a bird\n(D) nothing"
    assert (sample.id, sample.answer, sample.alternatives, sample.rule) == ("5", "C", ("a bird",), "choice")
    assert sample.family == "single"


def test_multiple_choice_without_images_alone_and_beside_others(write: Write) -> None:
    text_only = {name: value for name, value in HRBENCH.items() if name != "image"}
    for rows in ([HRBENCH, HRBENCH | {"image": ""}], [text_only, text_only]):
        path = write("mcq.tsv", rows)
        assert Rows(path).format.name == "hrbench"
        sample = FileSource(test=path, strict=True).sample("test", 1)
        assert (sample.images, sample.answer) == ((), "C")
        assert sample.question.endswith("(C) a bird\n(D) nothing")


def test_hrbench_images_that_are_no_base64_name_the_row(write: Write) -> None:
    path = write("hr.tsv", [HRBENCH, HRBENCH | {"image": "this is no base64!"}])
    with pytest.raises(DataError, match=r"hr\.tsv, row 1: the image is no base64"):
        FileSource(test=path, strict=True).sample("test", 1)


def test_a_folder_and_a_pattern_join_their_files(write: Write) -> None:
    for part in range(3):
        write(f"data/test-{part}.parquet", [CODEVISION, CODEVISION])
    write("data/train-0.parquet", [CODEVISION])
    folder = str(Path(write("data/x.txt", b"")).parent)
    assert FileSource(test=folder).size("test") == 7
    assert FileSource(test=f"{folder}/test-*.parquet").size("test") == 6


def test_a_file_of_another_schema_says_what_is_there_and_what_is_missing(write: Write) -> None:
    path = write("x.parquet", [{"prompt": "a", "images": [], "reward_model": {"a": 1}, "label": 3}])
    with pytest.raises(
        DataError, match=r"columns prompt, images, reward_model, label.*'codevision'.*also need extra_info"
    ):
        FileSource(test=path)
    assert FileSource(test=path, format="codevision").size("test") == 1
    with pytest.raises(ConfigError, match=r"no format 'codevison'. Did you mean 'codevision'"):
        FileSource(test=path, format="codevison")


class Hub:
    """The part of `datasets` that is used: rows as Arrow tables."""

    def __init__(self, rows: list[Any]) -> None:
        self.table = pa.Table.from_pylist(rows)
        self.asked: list[Any] = []
        self.column_names = self.table.column_names

    def load_dataset(self, repository: str, config: str | None, split: str) -> Hub:
        self.asked.append((repository, config, split))
        if repository == "owner/gone":
            raise ConnectionError("Couldn't reach 'owner/gone'\nlong trace")
        return self

    def with_format(self, kind: str) -> Hub:
        assert kind == "arrow"
        return self

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, index: int) -> pa.Table:
        return self.table.slice(index, 1)


def test_a_data_set_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    row = ocrbench_rows()["test.parquet"]
    hub = Hub([row, row | {"image": {"bytes": b"broken", "path": None}}])
    monkeypatch.setitem(__import__("sys").modules, "datasets", hub)  # type: ignore[arg-type]
    source = FileSource(test="echo840/OCRBench", validation="owner/name:config:part", strict=True)
    assert hub.asked == [("owner/name", "config", "part"), ("echo840/OCRBench", None, "test")]
    sample = source.sample("test", 0)
    assert is_image(sample)
    assert (sample.id, sample.answer) == ("echo840/OCRBench, row 0", "CENTRE")
    with pytest.raises(DataError, match="echo840/OCRBench, row 1: image of the row cannot be read"):
        source.sample("test", 1)
    with pytest.raises(ConfigError, match=r"owner/gone: cannot be loaded from the hub: Couldn't reach 'owner/gone'$"):
        FileSource(test="owner/gone")


def test_the_hub_needs_datasets_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"echo840/OCRBench:test: reading from the hub needs.*cv-lightning.hub"):
        FileSource(test="echo840/OCRBench:test")


# ---- places, cells and rows without images ---------------------------------------------------------------------------


def test_places_between_words_are_kept_and_leading_ones_need_none(write: Write) -> None:
    extra = CODEVISION["extra_info"] | {"question": "<image> is Monday, <image> is Friday. Which is wet?"}  # type: ignore[operator]
    row = CODEVISION | {"extra_info": extra, "images": [{"bytes": png(n), "path": None} for n in (1, 2)]}
    row["prompt"] = [{"role": "user", "content": "<image>\n<image>\nWhich is wet?"}]
    sample = FileSource(test=write("rl.parquet", [row]), strict=True).sample("test", 0)
    assert sample.parts == (sample.images[0], " is Monday, ", sample.images[1], " is Friday. Which is wet?")
    assert is_image(sample, 1, 0)
    assert is_image(sample, 2, 1)
    row = CODEVISION | {"extra_info": CODEVISION["extra_info"] | {"question": "<image>\nWhat?"}}  # type: ignore[operator]
    assert FileSource(test=write("one.parquet", [row]), strict=True).sample("test", 0).question == "What?"


def test_more_places_than_images_are_a_fault(write: Write) -> None:
    row = CODEVISION | {"prompt": [{"role": "user", "content": "<image> or <image>?"}]}
    with pytest.raises(DataError, match="prompt has 2 places <image> but the row has 1 images"):
        FileSource(test=write("rl.parquet", [row]), strict=True).sample("test", 0)


def test_verl_rows_without_the_metadata_of_the_paper(write: Write) -> None:
    row = {
        "data_source": "geo3k",
        "prompt": [{"role": "system", "content": "Think."}, {"role": "user", "content": "<image>Find x."}],
        "images": [{"bytes": png(), "path": None}],
        "reward_model": {"ground_truth": "4", "style": "rule"},
        "extra_info": {"split": "train", "index": 3},
    }
    text = {name: value for name, value in row.items() if name not in ("images", "extra_info")}
    text["prompt"] = [{"role": "user", "content": [{"type": "text", "text": "What is 2 + 2?"}]}]
    first = FileSource(test=write("a.parquet", [row]), strict=True).sample("test", 0)
    assert (first.id, first.question, first.answer, first.transforms) == ("geo3k-train-3", "Find x.", "4", ())
    second = FileSource(test=write("b.parquet", [text]), strict=True).sample("test", 0)
    assert (second.question, second.images, second.answer, second.family) == ("What is 2 + 2?", (), "4", "geo3k")


@pytest.mark.parametrize(
    "cell",
    [
        lambda data: "data:image/png;base64," + text64(data),
        lambda data: text64(data),
        lambda data: "\n".join(text64(data)[start : start + 76] for start in range(0, len(text64(data)), 76)),
        lambda data: {"bytes": None, "path": None, "url": "data:image/png;base64," + text64(data)},
        lambda data: {"image_url": {"url": "data:image/png;base64," + text64(data)}},
        lambda data: "a.png",
    ],
    ids=["data URI", "base64", "wrapped base64", "url", "image_url", "path"],
)
@pytest.mark.parametrize("is_list", [True, False])
def test_image_cells_of_plain_rows(cell: Callable[[bytes], Any], is_list: bool, write: Write) -> None:
    write("a.png", png())
    value = cell(png())
    row = {"question": "What?", "images": [value] if is_list else value, "answer": "x"}
    assert is_image(FileSource(test=write("rows.jsonl", [row]), strict=True).sample("test", 0))


def test_rows_with_and_without_images_beside_each_other(write: Write) -> None:
    write("a.png", png())
    rows = [
        {"question": "What?", "images": ["a.png"], "answer": "x", "transforms": ["rotate_90"]},
        {"question": "2 + 2?", "images": None, "answer": "4"},
        {"question": "2 + 3?", "answer": "5"},
    ]
    source = FileSource(test=write("rows.jsonl", rows), strict=True)
    turned = [source.sample("test", index, ("rotate_180",)) for index in range(3)]
    assert [len(sample.images) for sample in turned] == [1, 0, 0]
    assert [sample.transforms for sample in turned] == [("rotate_180",), (), ()]
    assert [sample.parts for sample in turned[1:]] == [("2 + 2?",), ("2 + 3?",)]


def test_a_multiple_choice_table_of_vlmevalkit(write: Write) -> None:
    rows = [
        {"index": "0", "image": text64(png(1)), "question": "Which?", "A": "cat", "B": "dog", "C": "", "answer": "B"},
        {"index": "1000000", "image": "0", "question": "Which?", "A": "dog", "B": "cat", "C": "", "answer": "A"},
        {
            "index": "2",
            "image": str([text64(png(2)), text64(png(3))]),
            "question": "<image> or <image>?",
            "A": "first",
            "B": "second",
            "C": "both",
            "answer": "C",
        },
    ]
    source = FileSource(test=write("bench.tsv", rows), strict=True)
    first, again, both = (source.sample("test", index) for index in range(3))
    assert (first.question, first.answer, first.alternatives, first.rule) == (
        "Which?\n(A) cat\n(B) dog",
        "B",
        ("dog",),
        "choice",
    )
    assert is_image(first, 1)
    assert is_image(again, 1), "the cell names the row that holds the image"
    assert again.alternatives == ("dog",)
    assert is_image(both, 2, 0)
    assert is_image(both, 3, 1)
    assert both.parts == (both.images[0], " or ", both.images[1], "?\n(A) first\n(B) second\n(C) both")


@pytest.mark.parametrize(
    ("cell", "words"),
    [("7", "no base64 text"), ("['a", "list of images cannot be read"), ("1", "no base64 text")],
)
def test_a_cell_that_names_no_image_says_so(cell: str, words: str, write: Write) -> None:
    row = {"index": "1", "image": cell, "question": "Which?", "A": "cat", "B": "dog", "answer": "B"}
    with pytest.raises(DataError, match=words):
        FileSource(test=write("bench.tsv", [row]), strict=True).sample("test", 0)


ROTBENCH = [{"image": {"bytes": png(n), "path": None}, "image_name": f"{n}.jpg"} for n in range(2)]


def test_rotbench_asks_each_image_in_four_rotations(write: Write) -> None:
    path = write("large-00000-of-00001.parquet", ROTBENCH)
    source = FileSource(test=path, strict=True)
    assert (Rows(path).format.name, source.size("test")) == ("rotbench", 8)
    letters = set()
    for index in range(8):
        sample, degrees = source.sample("test", index), 90 * (index % 4)
        upright = Image.fromarray(np.random.default_rng(index // 4).integers(0, 256, (30, 40, 3), dtype=np.uint8))
        assert np.array_equal(np.asarray(sample.images[0]), np.asarray(upright.rotate(degrees, expand=True)))
        assert (sample.id, sample.family) == (f"{index // 4}.jpg-{degrees}", f"rotated by {degrees}")
        assert sample.transforms == ((f"rotate_{degrees}",) if degrees else ())
        options = dict(re.findall(r"\(([A-D])\) (\d+)", sample.question))
        assert (sorted(options), sorted(map(int, options.values()))) == (["A", "B", "C", "D"], [0, 90, 180, 270])
        assert options[sample.answer] == str(degrees)
        answers = [sample.answer, f"The answer is {sample.answer}.", f"{degrees}", f"**{degrees}°**"]
        assert [grade(sample, answer).score for answer in answers] == [1.0] * 4
        assert grade(sample, str((degrees + 90) % 360)).score == 0.0
        letters.add(sample.answer)
    assert len(letters) > 1, "the right letter is not always the same"


def test_rotbench_is_asked_as_recorded(write: Write) -> None:
    path = write("small.parquet", ROTBENCH)
    with pytest.raises(ConfigError, match=r"cannot be turned.*orientations to \[recorded\]"):
        FileSource(test=path).sample("test", 0, ())
    with pytest.raises(ConfigError, match="leave out weights"):
        FileSource(test=path, weights={"none": 1.0})


def test_a_bad_image_of_rotbench_is_named(write: Write) -> None:
    rows = [{"image": {"bytes": b"no image", "path": None}, "image_name": "a.jpg"}]
    with pytest.raises(DataError, match=r"row 0, rotation 90: image .* cannot be read"):
        FileSource(test=write("bad.parquet", rows), strict=True).sample("test", 1)


#: Rows as the authors' scripts read them; prompts are of their kinds.
TIRBENCH = [
    {
        "id": 0,
        "task": "instrument",
        "image_1": "data/instrument/0.png",
        "image_2": None,
        "prompt": "What is the reading? Provide one decimal place (e.g., 1.1).",
        "answer": 2.5,
        "meta_data": None,
    },
    {
        "id": 1,
        "task": "spot_difference",
        "image_1": "data/spot_difference/1_a.png",
        "image_2": "data/spot_difference/1_b.png",
        "prompt": "Which numbered regions differ?",
        "answer": [2, 5, 9],
        "meta_data": None,
    },
    {
        "id": 2,
        "task": "jigsaw",
        "image_1": "data/jigsaw/2.png",
        "image_2": None,
        "prompt": "In what order should the pieces be arranged?",
        "answer": "3, 1, 4, 2",
        "meta_data": {"difficulty": 2},
    },
    {
        "id": 3,
        "task": "ocr",
        "image_1": "data/ocr/60.jpg",
        "image_2": None,
        "prompt": "What is written?",
        "answer": "wrong in the file",
        "meta_data": None,
    },
    {
        "id": 4,
        "task": "maze",
        "image_1": "data/maze/4.png",
        "image_2": None,
        "prompt": "Which of the options leads out? A. RRD B. DDR",
        "answer": "B",
        "meta_data": None,
    },
]


def test_tirbench(write: Write) -> None:
    for row in TIRBENCH:
        for name in (row["image_1"], row["image_2"]):
            if name is not None:
                write(str(name), png())
    path = write("TIR-Bench.json", TIRBENCH)
    assert Rows(path).format.name == "tirbench"
    source = FileSource(test=path, strict=True)
    samples = [source.sample("test", index) for index in range(5)]
    assert [sample.id for sample in samples] == ["0", "1", "2", "3", "4"]
    assert [len(sample.images) for sample in samples] == [1, 2, 1, 1, 1]
    assert [sample.family for sample in samples] == ["instrument", "spot_difference", "jigsaw", "ocr", "maze"]
    assert [sample.answer for sample in samples] == ["2.5", "[2, 5, 9]", "3, 1, 4, 2", "mobi", "B"]
    replies = ["2.50", "5 and 2", "**3, 1, 2, 4**", "It says mobi.", "(B)"]
    scores = [grade(sample, reply).score for sample, reply in zip(samples, replies, strict=True)]
    assert scores == pytest.approx([1, 2 / 3, 1 / 2, 1, 1])


VTCBENCH = [
    {
        "index": "1",
        "id": "attention_focusing_1",
        "category": "attention",
        "image": "images/attention_focusing/attention_focusing_1.jpg",
        "question": "Please locate the sign, whose text is mirrored, and answer what it says.",
        "answer": "光陽",
        "A": "",
        "B": "",
        "C": "",
        "D": "",
    },
    {
        "index": "127",
        "id": "chart_4",
        "category": "chart",
        "image": "images/chart/chart_4.jpg",
        "question": "What is the proportion for Europe?",
        "answer": "D",
        "A": "23",
        "B": "21",
        "C": "27",
        "D": "25",
    },
]


@pytest.mark.parametrize("more", [{}, {"model_tools_gt": '"[""Crop"", “Zoom in”]"'}])
def test_vtcbench(write: Write, tmp_path: Path, more: dict[str, str]) -> None:
    rows = [row | more for row in VTCBENCH]
    for row in rows:
        write(row["image"], png())
    path = write("VTC-Bench.tsv", rows)
    Path(path).write_bytes(Path(path).read_bytes().replace(b"\n", b"\r\n"))  # as the authors' file is
    assert Rows(path).format.name == "vtcbench"
    source = FileSource(test=path, strict=True)
    free, choice = (source.sample("test", index) for index in range(2))
    assert is_image(free)
    assert (free.id, free.family, free.question) == ("attention_focusing_1", "attention", VTCBENCH[0]["question"])
    assert (free.answer, free.rule, choice.rule) == ("光陽", "match", "choice")
    assert choice.question == "What is the proportion for Europe?\n(A) 23\n(B) 21\n(C) 27\n(D) 25"
    assert [grade(choice, answer).score for answer in ("D", "25", "It is D.", "A")] == [1, 1, 1, 0]
    assert [grade(free, answer).score for answer in ("光陽", "光")] == [1, 0]


URI = "data:image/png;charset=binary;base64," + base64.encodebytes(png()).decode()

#: A row of each format whose image cell is a data URI in lines.
DATA_URIS = {
    "ocrbench.json": {
        "dataset_name": "d",
        "id": 1,
        "question": "?",
        "answers": ["x"],
        "type": "t",
        "image_path": URI,
    },
    "ocrbench.parquet": {"dataset": "d", "question": "?", "question_type": "t", "answer": ["x"], "image": URI},
    "chartqapro.parquet": {
        "Question": ["?"],
        "Answer": ["x"],
        "Question Type": "Factoid",
        "Year": ["NO"],
        "Paragraph": "",
        "image": URI,
    },
    "vstar.jsonl": {"image": URI, "text": "?\n(A) x\n(B) y", "label": "A", "category": "c", "question_id": 1},
    "hrbench.parquet": {"index": 0, "image": URI, "question": "?", "A": "x", "B": "y", "answer": "A"},
    "vtcbench.parquet": VTCBENCH[1] | {"image": URI},
    "tirbench.json": TIRBENCH[0] | {"image_1": URI},
    "rotbench.parquet": {"image": URI, "image_name": "a.jpg"},
    "codevision.parquet": CODEVISION | {"images": [URI]},
    "codevision_sft.json": {
        "messages": [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "<answer>x</answer>"}],
        "images": [URI],
    },
    "plain.jsonl": {"question": "?", "images": URI, "answer": "x"},
}


@pytest.mark.parametrize("name", DATA_URIS)
def test_a_data_uri_is_an_image_in_every_format(name: str, write: Write) -> None:
    path = write(name, [DATA_URIS[name]])
    assert Rows(path).format.name == name.partition(".")[0]
    assert is_image(FileSource(test=path, strict=True).sample("test", 0))


def test_every_format_has_such_a_row() -> None:
    assert {name.partition(".")[0] for name in DATA_URIS} == set(FORMATS)

"""The published rows of V*."""

from __future__ import annotations

from cv_lightning.data.sources import FileSource, Rows
from tests.cv_lightning.data.sources.published_rows import Write, is_image, png

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

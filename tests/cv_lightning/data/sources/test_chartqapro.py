"""The published rows of ChartQAPro."""

from __future__ import annotations

from cv_lightning.data.sources import FileSource, Rows
from tests.cv_lightning.data.sources.published_rows import Write, is_image, png


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

"""Fingerprints of data: equal for equal data, and different after any change."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from callbacks.config_and_code import hardware
from callbacks.data_facts import data_facts
from cv_lightning.data.datamodules import PromptDataModule
from cv_lightning.data.sources.file_source import FileSource
from cv_lightning.data.worlds.plates import PlateWorld


def facts_of(source: Any) -> dict[str, Any]:
    return data_facts(PromptDataModule(source))


def test_a_procedural_world_is_known_by_its_samples() -> None:
    first, again, other = (facts_of(PlateWorld(seed=seed)) for seed in (0, 0, 1))
    assert first == again
    assert first["fingerprint"] != other["fingerprint"]
    prints = [split["fingerprint"] for split in first["splits"].values()]
    assert len(set(prints)) == 3
    assert first["splits"]["train"]["size"] is None
    json.dumps(first)


def test_files_are_known_by_their_content(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    sample = PlateWorld(seed=0).sample("train", 0, ())
    sample.images[0].save(tmp_path / "a.png")
    rows = [{"id": "0", "question": "Read.", "answer": "A", "images": ["a.png"]}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    before = facts_of(FileSource(train=str(file)))
    assert [Path(one["path"]).name for one in before["files"]] == ["rows.jsonl"]
    assert before["splits"]["train"]["size"] == 1
    file.write_text(file.read_text(encoding="utf-8").replace('"A"', '"B"'), encoding="utf-8")
    after = facts_of(FileSource(train=str(file)))
    assert after["fingerprint"] != before["fingerprint"]


def test_data_that_cannot_be_read_are_no_reason_to_stop() -> None:
    class Broken:
        def size(self, split: str) -> int:
            return 3

        def sample(self, split: str, index: int) -> None:
            raise ValueError("no such row")

    facts = data_facts(SimpleNamespace(source=Broken()))
    assert facts["splits"]["train"] == {"error": "ValueError: no such row"}
    assert data_facts(None) == {}


def test_hardware_in_words() -> None:
    gpus = {"accelerators": ["H100", "H100", "L4"], "n_usable_processors": 4, "processor": "X"}
    assert hardware(gpus) == "2 x H100, 1 x L4"
    assert hardware({**gpus, "accelerators": []}) == "4 x X"

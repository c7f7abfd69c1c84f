"""Every version comes from package metadata: PyPI's torch reports 2.13.0+cu130, its metadata say 2.13.0."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

from callbacks.config_and_code import run_facts
from cv_lightning.cli.reproduce import versions as of_a_report
from cv_lightning.console.versions import all_versions, version_of, versions
from cv_lightning.construction.maker import DRAWN_WITH
from cv_lightning.data.worlds.published import drawn_with
from modules.evaluate import versions as of_an_evaluation


@pytest.fixture
def labeled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in which torch reports a local label that its metadata lack, and numpy's metadata have a label."""
    for name, number in (("torch", "2.13.0"), ("numpy", "2.9.9+local.1"), ("Some_Package", "3")):
        folder = tmp_path / f"{name}-{number}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(torch, "__version__", "2.13.0+cu130")


@pytest.mark.usefixtures("labeled")
def test_every_record_of_a_run_gives_the_same_version() -> None:
    for found in (of_a_report(), of_an_evaluation(), run_facts(Path.cwd())["packages"]):
        assert found["torch"] == "2.13.0"
        assert found["numpy"] == "2.9.9+local.1"
    assert versions(DRAWN_WITH)["numpy"] == drawn_with()["numpy"] == "2.9.9+local.1"


@pytest.mark.usefixtures("labeled")
def test_of_two_packages_of_one_name_the_first_on_the_path_counts() -> None:
    assert all_versions()["torch"] == version_of("torch") == "2.13.0"
    assert all_versions()["some_package"] == "3"


def test_what_is_not_installed_is_left_out() -> None:
    assert version_of("no-such-package") is None
    assert versions(("python", "no-such-package")) == {"python": platform.python_version()}

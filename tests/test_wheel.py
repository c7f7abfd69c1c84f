"""A wheel is complete: installed alone, it trains from an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOUSES = ("cv_lightning", "modules", "callbacks", "sandbox", "experiments")


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_an_installed_wheel_reproduces_from_an_empty_folder(tmp_path: Path) -> None:
    source, empty, environment = tmp_path / "source", tmp_path / "empty", tmp_path / "environment"
    files = run("git", "ls-files", "-z", *HOUSES, "pyproject.toml", "setup.cfg", "README.md", "LICENSE", cwd=ROOT)
    for name in filter(None, files.split("\0")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", tmp_path, source, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    wanted = {name for name in files.split("\0") if name.startswith(HOUSES) and not name.endswith(".md")}
    assert wanted <= inside, wanted - inside

    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    run(python, "-m", "pip", "install", "--no-deps", wheel, cwd=tmp_path)
    # Use this environment's libraries. Its install of the project is a path in a .pth file there, which is not read.
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    (site / "libraries.pth").write_text("\n".join(libraries) + "\n", encoding="utf-8")
    empty.mkdir()
    assert str(site) in run(python, "-c", "import cv_lightning; print(cv_lightning.__file__)", cwd=empty)
    small = ["trainer.max_steps=2", "data.init_args.n_test_per_orientation=1"]
    run(python, "-m", "cv_lightning", "reproduce", "--stages", "base", "--overrides", *small, cwd=empty)
    report = json.loads((empty / "runs/tiny/report.json").read_text(encoding="utf-8"))
    assert set(report["stages"]["base"]["accuracy"]) == {"upright", "rot90", "rot180", "rot270", "hflip", "vflip"}

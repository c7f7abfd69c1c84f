"""The measured memory of a process is its own, not that of the process that started it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import subprocess, sys
from sandbox.memory import peak_memory_bytes

before = peak_memory_bytes()
held = b"x" * (int(sys.argv[1]) << 20)
print(before >> 20, (peak_memory_bytes() - before) >> 20, flush=True)
if sys.argv[2:]:
    subprocess.run([sys.executable, __file__, *sys.argv[2:]], check=True)
"""


def test_it_is_not_that_of_the_process_that_started_this_one(tmp_path: Path) -> None:
    script = tmp_path / "hold.py"
    script.write_text(SCRIPT, encoding="utf-8")
    done = subprocess.run([sys.executable, script, "600", "100"], stdout=subprocess.PIPE, text=True, check=True)
    (_, held), (before_child, held_by_child) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert 598 <= held < 640
    assert before_child < 300
    assert 98 <= held_by_child < 140

"""A torchvision whose operators lack their library can be imported with a CPU build of torch, and only with that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from modules.samplers.vllm.worker import torchvision_without_cuda

#: The part of torchvision's import that fails if the operators are not defined.
TORCHVISION = """
import torch
for name in ("nms", "qnms"):
    torch.library.register_fake(f"torchvision::{name}")(lambda dets, scores, iou_threshold: dets)
"""

PROGRAM = """
import sys
import torchvision_without_cuda
assert "torch" not in sys.modules, "it costs nothing until torchvision is imported"
import torch
torch.version.cuda = {cuda!r}
import torchvision
print(torchvision.__file__, len(sys.meta_path))
"""


@pytest.mark.parametrize(("cuda", "is_imported"), [(None, True), ("13.0", False)])
def test_operators_are_defined_for_a_cpu(cuda: str | None, is_imported: bool, tmp_path: Path) -> None:
    (tmp_path / "torchvision.py").write_text(TORCHVISION, encoding="utf-8")
    shim = str(Path(torchvision_without_cuda.__file__).parent)
    program = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {shim!r}]\n" + PROGRAM.format(cuda=cuda)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == is_imported, done.stderr
    assert is_imported or "torchvision::nms" in done.stderr

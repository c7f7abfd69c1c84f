"""Lets PyPI's torchvision, which is linked against CUDA, be imported beside a torch for the CPU.

Two of its operators are missing there, and its import fails without them. The environment's script puts this file into
site-packages, with a `.pth` file that imports it when Python starts; it does nothing until torchvision is imported.
"""

from __future__ import annotations

import importlib.abc
import sys
from collections.abc import Sequence
from types import ModuleType

_OPERATORS = ("nms", "qnms")


class _BeforeTorchvision(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if fullname != "torchvision":
            return
        sys.meta_path.remove(self)
        import torch

        if torch.version.cuda is None:
            for operator in _OPERATORS:
                signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                torch.library.define(f"torchvision::{operator}", signature)


sys.meta_path.insert(0, _BeforeTorchvision())

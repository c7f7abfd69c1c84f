"""The supported kinds of models. To add a kind, write a file like `qwen.py` and add an entry here."""

from __future__ import annotations

from modules.policy.family import Family
from modules.policy.qwen import QWEN2_5_VL, QWEN3_5, QWEN3_VL

#: Families by Hugging Face's `model_type`.
FAMILIES: dict[str, Family] = {"qwen2_5_vl": QWEN2_5_VL, "qwen3_vl": QWEN3_VL, "qwen3_5": QWEN3_5}

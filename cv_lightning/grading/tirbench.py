"""The scoring of TIR-Bench (arXiv 2511.01833), as its authors' `calculate_score.py` and `tools.py` define it.

The authors let GPT-4.1 extract the answer from the reply; here the policy's own answer is scored. By task: "ocr": the
answer contains the truth. "jigsaw": the share of pieces in place. "spot_difference": a number, or the overlap of two
sets of numbers. "word_search": a number, or a row and a column. Other tasks: a letter, several letters in any order, or
a number.

This scoring is stricter than the authors': an answer without a letter matches no option (theirs takes the closest
option for any text), digits of several numbers are not joined into one number, and `math_verify` is not used.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from cv_lightning.grading.final_answer import final_answer
from cv_lightning.grading.rules import comparison, parse_number

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_NUMBERS_IN_A_ROW = re.compile(r"[\d\s,\uff0c]+")
_PAIR = re.compile(r"\b(\d+)\s*,\s*(\d+)\b")
_LETTERS = re.compile(r"[A-J]{2,}")


def tirbench(prediction: str, truths: Sequence[str], task: str) -> float:
    """Credit in [0, 1] for an answer to a question of a task; a `grading.benchmarks.Rule`."""
    truth, given = truths[0].strip(), final_answer(prediction).replace("*", "").strip()
    if task == "ocr":
        return float(truth in prediction)
    if task == "jigsaw":
        return _in_place(given, _integers(truth))
    if parse_number(truth) is not None:
        return float(_is_number(given, truth))
    if task == "word_search":
        pairs = [_PAIR.search(text) for text in (given, truth)]
        return float(pairs[0] is not None and pairs[1] is not None and _pair(pairs[0]) == _pair(pairs[1]))
    if task == "spot_difference":
        found, expected = set(_integers(given)), set(_integers(truth))
        return len(found & expected) / len(found | expected) if found | expected else 0.0
    if _LETTERS.fullmatch(truth):
        return float(sorted(re.sub(r"[\s,;]|\band\b", "", given)) == sorted(truth))
    return float(comparison(prediction, truth) is not None)


def _in_place(given: str, expected: Sequence[int]) -> float:
    """The share of correct places in the first run of numbers that has the expected length."""
    runs = (_integers(run) for run in _NUMBERS_IN_A_ROW.findall(given))
    order = next((run for run in runs if len(run) == len(expected)), [])
    return sum(a == b for a, b in zip(order, expected, strict=False)) / max(1, len(expected))


def _is_number(given: str, truth: str) -> bool:
    numbers = _NUMBER.findall(given)
    is_it = len(numbers) == 1 and float(numbers[0]) == parse_number(truth)
    return is_it or comparison(given, truth) is not None


def _integers(text: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", text)]


def _pair(match: re.Match[str]) -> tuple[int, int]:
    return int(match.group(1)), int(match.group(2))

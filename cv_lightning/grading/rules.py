"""Rules that decide whether an answer is right.

General rules, in order: equal after normalization; equal as numbers within 1e-4; the same choice letter, also in a
sentence. Rules of benchmarks: relaxed accuracy (ChartQA, arXiv 2203.10244) and ANLS (DocVQA, arXiv 1907.00490).
"""

from __future__ import annotations

import re
import string
import unicodedata
from typing import Literal

from cv_lightning.grading.final_answer import final_answer, letter_in_sentence

#: The comparison by which a prediction equals the truth, see `comparison`.
Comparison = Literal["text", "number", "letter", "sentence"]

#: Two numbers that differ by no more than this are the same answer (absolute, so that long identifiers stay distinct).
NUMERIC_TOLERANCE = 1e-4

# "5E3" is a plate and "007" an identifier: an exponent needs a sign or a decimal point, an integer no leading zero.
_NUMBER = re.compile(r"[-+]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+|(?:0|[1-9]\d*)?\.?\d+e[-+]\d+|\d+\.\d*e[-+]?\d+)")
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d*)?")
_CHOICE = re.compile(r"(?:[(\[]([a-z])[)\]]|([a-z])(?:[).:](?=\s|$)|$))\s*(.*)", re.DOTALL)
_CHOICE_INSIDE = re.compile(r"(?:^|\s)(?:[(\[][a-z][)\]]|[a-z][).:](?=\s|$))")
_LEAD = re.compile(
    r"^(?:the )?(?:correct |final |best )?(?:answer|option|choice)(?: is)?\s*:?\s+(?:option |choice |letter )?"
)


def normalize(text: str) -> str:
    """Normalize spelling: Unicode NFKC, case, spaces, quotes around the text, punctuation after it."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    folded = " ".join(folded.split())
    return folded.lstrip("\"'`* ").rstrip(string.whitespace + "\"'`*.,;:!") or folded


def parse_number(text: str) -> float | None:
    """The number if the whole text is a number ("$1,200.50", "12 %", "-3"), else None."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("\u2212", "-")
    text = text.strip().rstrip(" %").lstrip("$€£ ").removesuffix(".")
    sign, digits = (text[0], text[1:]) if text[:1] in ("-", "+") else ("", text)
    if _THOUSANDS.fullmatch(digits):
        digits = digits.replace(",", "")
    return float(sign + digits) if _NUMBER.fullmatch(sign + digits) else None


def choice_letter(text: str) -> tuple[str, str] | None:
    """The letter and the text of a choice ("B", "(b)", "B. a cat", "The answer is B"), or None.

    A text that names several choices gives None.
    """
    match = _CHOICE.fullmatch(_LEAD.sub("", normalize(text)))
    if match is None or _CHOICE_INSIDE.search(match.group(3)):
        return None
    return match.group(1) or match.group(2), match.group(3)


def is_right(prediction: str | None, truth: str) -> bool:
    """Whether a prediction equals the truth by one of the comparisons; False without a prediction."""
    return comparison(prediction, truth) is not None


def comparison(prediction: str | None, truth: str) -> Comparison | None:
    """The first comparison by which a prediction equals the truth, or None.

    "text": equal after normalization. "number": equal within `NUMERIC_TOLERANCE`. "letter": the same choice. These are
    tried on the unchanged texts, then on their final answers (without a box, bold type or a lead). "sentence": the
    truth is a choice, and the prediction is a sentence that gives its letter.
    """
    if prediction is None or not prediction.strip():
        return None
    found = _compare(prediction, truth) or _compare(final_answer(prediction), final_answer(truth))
    if found is not None:
        return found
    true_choice = choice_letter(final_answer(truth))
    is_sentence = true_choice is not None and choice_letter(final_answer(prediction)) is None
    return "sentence" if is_sentence and letter_in_sentence(prediction) == true_choice[0] else None  # type: ignore[index]


def _compare(prediction: str, truth: str) -> Comparison | None:
    if normalize(prediction) == normalize(truth):
        return "text"
    predicted_number, true_number = parse_number(prediction), parse_number(truth)
    if predicted_number is not None and true_number is not None:
        return "number" if abs(predicted_number - true_number) <= NUMERIC_TOLERANCE else None
    predicted_choice, true_choice = choice_letter(prediction), choice_letter(truth)
    if predicted_choice is None or true_choice is None:
        return None
    texts_agree = "" in (predicted_choice[1], true_choice[1]) or predicted_choice[1] == true_choice[1]
    return "letter" if predicted_choice[0] == true_choice[0] and texts_agree else None


def is_right_relaxed(prediction: str | None, truth: str, tolerance: float = 0.05) -> bool:
    """Relaxed accuracy of ChartQA: numbers may differ by `tolerance` times the truth; otherwise as `is_right`."""
    if prediction is None:
        return False
    predicted_number, true_number = parse_number(prediction), parse_number(truth)
    if predicted_number is None or true_number is None:
        return is_right(prediction, truth)
    return abs(predicted_number - true_number) <= max(tolerance * abs(true_number), NUMERIC_TOLERANCE)


def edit_distance(first: str, second: str) -> int:
    """Levenshtein distance in characters."""
    previous = list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        current = [i]
        for j, b in enumerate(second, start=1):
            current.append(min(previous[j] + 1, current[-1] + 1, previous[j - 1] + (a != b)))
        previous = current
    return previous[-1]


def anls(prediction: str | None, truths: list[str], threshold: float = 0.5) -> float:
    """Normalized Levenshtein similarity to the closest true answer, in [0, 1]; 0 if it is below `threshold`.

    Case and surrounding spaces are ignored. The metric of a data set is the mean over its questions.
    """
    if prediction is None or not truths:
        return 0.0
    predicted = prediction.strip().casefold()
    best = 0.0
    for truth in truths:
        expected = truth.strip().casefold()
        longest = max(len(predicted), len(expected))
        best = max(best, 1.0 - edit_distance(predicted, expected) / longest if longest else 1.0)
    return best if best >= threshold else 0.0

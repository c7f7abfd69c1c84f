"""Finds the final answer in a model's text: strips a box, bold type or a lead, and finds a letter in a sentence.

A letter is taken from a sentence only if the sentence gives exactly this letter as its answer: "A cat", "Both A and C"
and "It is not B" give none.
"""

from __future__ import annotations

import re
import unicodedata

_BOX = "\\boxed{"
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf|mathit|texttt)\s*\{([^{}]*)\}")
_MARKUP = re.compile(r"\*\*|__|`|\\[()\[\]]|(?<!\w)\$(?=[^$]*\$)|(?<=\S)\$(?!\w)")
_ESCAPED = re.compile(r"\\([%$#&_])")

#: Words that introduce an answer: "So the correct answer is: ", "Final answer: ", "Answer (".
_LEAD = re.compile(
    r"^(?:(?:so|thus|hence|therefore)\b,?\s*)?(?:i (?:think|believe|say)\s+(?:that\s+)?)?(?:the |my )?"
    r"(?:(?:correct|final|best|right)\s+)*answer(?:\s+(?:is|would be|must be|should be)\b)?\s*:?(?:\s+|(?=\())",
    re.IGNORECASE,
)

_QUOTE = r"[(\[\"'\u201c]?"
_FREE = r"(?<![\w'\u2019-])([A-Ha-h])(?![\w'\u2019-])"
_DECLARED = re.compile(
    r"\b(?:answer|choice|option)(?:\s+(?:is|are|would be|must be|should be))?\s*[:=]?\s*"
    rf"(?:(?:the\s+)?(?:option|choice|letter)\s+)?{_QUOTE}{_FREE}",
    re.IGNORECASE,
)
_GIVEN = (
    re.compile(
        rf"\b(?:it is|it's|it\u2019s|is|be|choose|pick|select|say|with|letter)\s+{_QUOTE}{_FREE}", re.IGNORECASE
    ),
    re.compile(rf"{_FREE}[)\]\"'\u201d]?\s+is\s+(?:the\s+)?(?:correct|right|best|answer|true)\b"),
    re.compile(r"\(([A-Ha-h])\)"),
    re.compile(r"^([A-H])(?=,|\s+(?:-|\u2013|\u2014|because|since)\s)"),
)
_REASON = re.compile(r"\s*(?:$|[.,;:!)\]\"'\u201d\n]|(?:because|since|as|is)\b|[-\u2013\u2014]\s)")
_ANOTHER = re.compile(
    rf"[)\]\"'\u201d]*\s*(?:,|/|&|\bor\b|\band\b|\bto\b)\s*(?:option\s+)?{_QUOTE}{_FREE}", re.IGNORECASE
)
_REFUSED = re.compile(r"[)\]\"'\u201d]*\s*(?:is|are)\s+(?:not|wrong|incorrect)|[)\]\"'\u201d]*\s*\?")
_NEGATION = re.compile(
    r"\b(?:not|never|neither|nor|none|no|except|unless|incorrect|wrong|doubt|cannot|unlikely|unsure)\b|n['\u2019]t\b",
    re.IGNORECASE,
)
_SEVERAL = re.compile(r"\b(?:both|either|or|all of)\b", re.IGNORECASE)
_CLAUSE = re.compile(r"[,.;:\n]")


def final_answer(text: str) -> str:
    """A text without the markup around its answer: LaTeX box and commands, bold type, code type, a lead.

    If the text has boxes with different contents, the boxes stay.
    """
    boxes = {box.strip() for box in _boxes(text)}
    text = boxes.pop() if len(boxes) == 1 else text
    while (plain := _TEXT_COMMAND.sub(r"\1", text)) != text:
        text = plain
    text = _ESCAPED.sub(r"\1", _MARKUP.sub("", text)).strip()
    return text[_end_of_lead(text) :].strip() or text


def _end_of_lead(text: str) -> int:
    match = _LEAD.match(text)
    return 0 if match is None else match.end()


def _boxes(text: str) -> list[str]:
    """The contents of LaTeX boxes, with balanced braces."""
    found, at = [], 0
    while (start := text.find(_BOX, at)) >= 0:
        depth, at = 1, start + len(_BOX)
        first = at
        while at < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            at += 1
        if depth:
            break
        found.append(text[first : at - 1])
    return found


def letter_in_sentence(text: str) -> str | None:
    """The one letter (A to H, lower case) that a sentence gives as its answer, or None."""
    text = unicodedata.normalize("NFKC", _MARKUP.sub("", text))
    declared = [match for match in _DECLARED.finditer(text) if _is_letter(match, text)]
    if declared:
        letters = {match.group(1).casefold() for match in declared}
        return letters.pop() if len(letters) == 1 and all(_is_meant(match, text) for match in declared) else None
    if _NEGATION.search(text) or _SEVERAL.search(text):
        return None
    given = {m.group(1).casefold() for rule in _GIVEN for m in rule.finditer(text) if _is_letter(m, text)}
    others = {match.group(1) for match in re.finditer(_FREE, text) if match.group(1) in "BCDEFGH"}
    return given.pop() if len(given) == 1 and {letter.casefold() for letter in others} <= given else None


def _is_letter(match: re.Match[str], text: str) -> bool:
    """Whether a match is a choice letter and not an article, as in "a cat" and "A cat"."""
    letter, end = match.group(1), match.end(1)
    if text[match.start(1) - 1 : match.start(1)] == "(" and text[end : end + 1] == ")":
        return True
    return letter in "BCDEFGH" or bool(_REASON.match(text, end))


def _is_meant(match: re.Match[str], text: str) -> bool:
    """Whether the clause neither negates the letter nor continues with another letter."""
    before = _CLAUSE.split(text[: match.start()])[-1]
    is_denied = _NEGATION.search(before) or _REFUSED.match(text, match.end())
    return not is_denied and _ANOTHER.match(text, match.end()) is None

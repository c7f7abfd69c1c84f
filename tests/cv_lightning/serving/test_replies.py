"""Texts of replies, cut at the client's stop texts."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from cv_lightning.serving.replies import cut_at, unstopped

WORDS = st.text("ab", max_size=12)


@example("bab", False, ["a", "babb"], "b")  # a stop text that begins earlier and ends later
@given(WORDS, st.booleans(), st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3), WORDS)
def test_no_stop_text_takes_back_what_was_sent(written: str, is_cut: bool, stop: list[str], more: str) -> None:
    """A replacement character at the end of the text so far is a letter with missing bytes."""
    sent = unstopped(written + "\ufffd" * is_cut, stop)
    assert cut_at(written + more, stop).startswith(sent)
    assert not any(one in sent for one in stop)

"""Recorded conversations as SFT episodes: the published CodeVision-SFT, or the output of `data build`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from cv_lightning.conversation import parse_reply
from cv_lightning.data.rows import open_image, sample_from_row
from cv_lightning.data.source import SampleSource, Split
from cv_lightning.data.sources.codevision_sft import FORMAT, fields, read_turns
from cv_lightning.data.sources.file_source import FileSource, Rows
from cv_lightning.data.sources.formats import unwrap_image
from cv_lightning.data.sources.records import Record
from cv_lightning.errors import DataError
from cv_lightning.frames import see_result, view_question
from cv_lightning.rollout import Executor
from cv_lightning.tools.choose import make_toolbox
from cv_lightning.tools.code import CODE_TOOLS
from cv_lightning.tools.toolbox import Toolbox, ToolboxName
from cv_lightning.types import IMAGE, StopReason, Trajectory, Turn
from sandbox import Observation

_CONTROL = re.compile(r"<\|[a-z_]+\|>")
_RESPONSE = re.compile(r"</?tool_response>")


class RecordedEpisodes:
    """The SFT episodes of ShareGPT files, to use in place of an `EpisodeBuilder`.

    Nothing is executed: the observations are recorded. System turns are left out, because each policy has its own.

    Args:
        train: File, folder, pattern or hub name of the conversations (see `open_records`).
        evaluation: The source of validation and test samples; None leaves these splits empty, because the training
            conversations cannot be used for them.
        folder: Relative image paths start here; None for the folder of the file.
        seed: Seed of the order.
        strict: Raise at the first bad row instead of skipping it with a warning.
        toolbox: The tools that the conversations call: "code", "named", or a `cv_lightning.tools.Toolbox`.
    """

    def __init__(
        self,
        train: str,
        evaluation: SampleSource | None = None,
        folder: str | None = None,
        seed: int = 0,
        strict: bool = False,
        toolbox: Toolbox | ToolboxName = "code",
    ) -> None:
        self.toolbox = make_toolbox(toolbox)
        self.toolbox.units(())  # rejects "seen": files do not say the size of a seen image
        self.rows = FileSource(train=train, format=FORMAT.name, folder=folder, seed=seed, strict=strict)
        self.source: SampleSource = self.rows if evaluation is None else evaluation

    def episode(self, split: Split, index: int, executor: Executor) -> Trajectory | None:
        """The episode at `index`; raises `RowError` if its row cannot be used (`DataError` if `strict` is set)."""
        return self.rows.only(split, index, self._read)

    def size(self, split: Split) -> int | None:
        """Number of rows of a split."""
        return self.rows.size(split)

    def _read(self, rows: Rows, place: int) -> Trajectory:
        return episode_of(rows.records.read(place), rows.records.where(place), rows.folder, self.toolbox)


def episode_of(record: Record, where: str, folder: Path | None = None, toolbox: Toolbox = CODE_TOOLS) -> Trajectory:
    """A recorded conversation as a trajectory.

    Args:
        record: The row. Besides the published columns, it may have `trained`: for each turn of the policy, whether to
            imitate it. A mistake that is corrected later is not imitated.
        where: File and row, for messages.
        folder: Relative image paths start here.
        toolbox: The tools that the conversation calls.

    Raises:
        DataError: The turns do not alternate, a turn holds a control token, an image is missing, or there is no answer.
    """
    sample = sample_from_row(fields(record, where, folder or Path()), where, folder)
    recorded = read_turns(record, where)
    turns = recorded.turns
    _check_turns(turns, where)
    trajectory = Trajectory(sample, images=view_question(sample), stop_reason=StopReason.ANSWERED)
    results = _results(recorded.images[len(sample.images) :], where, folder)
    is_trained = _trained(record, len(turns) // 2, where)
    replies, responses = turns[1::2], [*turns[2::2], ("tool", "")]
    for number, ((_, text), (_, response)) in enumerate(zip(replies, responses, strict=True)):
        units = toolbox.units([viewed.image.size for viewed in trajectory.images])
        turn = Turn(text.strip(), parse_reply(text, toolbox, units), is_trained=is_trained[number])
        trajectory.turns.append(turn)
        if number == len(replies) - 1:
            break
        image = next(results) if IMAGE in response else None
        said = _RESPONSE.sub("", response).replace(IMAGE, "").strip()
        turn.observation = Observation("ok" if image is not None else "error", image=image, text=said)
        call = turn.reply.call
        if call is not None and 0 <= call.image_index < len(trajectory.images):
            see_result(trajectory)
    return trajectory


def _check_turns(turns: Sequence[tuple[str, str]], where: str) -> None:
    """Check that policy and tool alternate after one human turn, ending with the policy, and that all turns encode."""
    authors = [author for author, _ in turns]
    expected = ["human", *(("gpt", "tool") * len(authors))][: len(authors)]
    # The observation is a user turn in the paper's template, so some rows call its author "human".
    found = [author if number == 0 or author == "gpt" else "tool" for number, author in enumerate(authors)]
    if found != expected or len(authors) % 2:
        raise DataError(f"{where}: expected the turns human, gpt, tool, gpt, ..., got {', '.join(authors)}.")
    for number, (author, text) in enumerate(turns):
        token = _CONTROL.search(text) if author == "gpt" else None
        if token is not None:
            raise DataError(
                f"{where}: turn {number} contains the control token {token.group()}, which a policy must not "
                "write. Remove the token or the row."
            )
        if number and text.count(IMAGE) > 1:
            raise DataError(f"{where}: turn {number}: expected at most one image, got {text.count(IMAGE)}.")


def _results(values: Sequence[Any], where: str, folder: Path | None) -> Iterator[Image.Image]:
    """The images of the tool turns, each opened when its turn is read."""
    for value in values:
        image = unwrap_image(value, where)
        if isinstance(image, str):
            image = (folder or Path()) / image
        if not isinstance(image, Path | bytes):
            raise DataError(
                f"{where}: images: expected the path of an image, got {value!r}. Correct it or remove the row."
            )
        yield open_image(image, where)


def _trained(record: Mapping[str, Any], n_turns: int, where: str) -> list[bool]:
    values = record.get("trained")
    if values is None:
        return [True] * n_turns
    if not isinstance(values, list) or len(values) != n_turns or not all(isinstance(value, bool) for value in values):
        raise DataError(f"{where}: trained: expected true or false for each of {n_turns} gpt turns, got {values!r}.")
    return values

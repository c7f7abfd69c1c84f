"""The findings of `data check`: the format of a file, its counts, and every fault with its row."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Protocol

from PIL import Image

from cv_lightning.conversation import Conversation, parse_reply
from cv_lightning.data.rows import ImageSource, load_sample, read_row, row_faults
from cv_lightning.data.sources import codevision_sft
from cv_lightning.data.sources.episodes import episode_of
from cv_lightning.data.sources.file_source import Rows
from cv_lightning.data.sources.records import Record
from cv_lightning.errors import ConfigError, ConversationError, DataError
from cv_lightning.tools.choose import make_toolbox
from cv_lightning.tools.code import CODE_TOOLS
from cv_lightning.types import Sample, Trajectory, Turn

#: Maximum length of a text in the list of samples.
_SHOWN_CHARACTERS = 160

#: Number of rows that are decoded, and held in memory, at the same time, and number of rows in the queue.
_N_THREADS = 4
_ROWS_AHEAD = 16


@dataclass
class Findings:
    """The result of a check.

    Attributes:
        n_rows: Checked rows.
        n_good: Rows that become a sample.
        faults: Every fault: file, row, cause, remedy.
        notices: Usable rows that may lose some of their meaning.
        families: Good rows by family.
        transforms: Good rows by transform of the image.
        n_boxes: Good rows with a box.
        samples: The first good samples, without their pixels, and the sizes of their images.
    """

    n_rows: int = 0
    n_good: int = 0
    faults: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    families: Counter[str] = field(default_factory=Counter)
    transforms: Counter[str] = field(default_factory=Counter)
    n_boxes: int = 0
    samples: list[tuple[Sample, list[tuple[int, int]]]] = field(default_factory=list)


class Reader(Protocol):
    """Checks whether a policy can be asked a row, or learn from it; `modules.policy.rows.RowReader` is an example."""

    @property
    def conversation(self) -> Conversation:
        """The policy's conversation."""

    def question(self, sample: Sample) -> Sample:
        """Raise `ConversationError` if the policy cannot be asked the question."""

    def episode(self, trajectory: Trajectory) -> Trajectory:
        """Raise `ConversationError`, `DataError` or `ConfigError` if the policy cannot learn from the trajectory."""


def check(rows: Rows, places: Iterable[int], n_samples: int = 3, reader: Reader | None = None) -> Findings:
    """Read the rows at `places` with their images, and collect counts and faults; a `reader` adds a policy's faults."""
    findings = Findings()
    first_place: dict[str, str] = {}
    with ThreadPoolExecutor(_N_THREADS) as pool:  # decoding an image lets other threads run
        for looked in _looked_at(rows, places, pool, reader):
            findings.n_rows += 1
            findings.faults += looked.faults
            findings.notices += looked.notices
            if looked.sample is None:
                continue
            _count(findings, looked.sample, looked.where, first_place)
            if len(findings.samples) < n_samples:
                findings.samples.append((looked.sample, looked.sizes))
    return findings


@dataclass
class _Looked:
    """The findings of one row, without its pixels."""

    where: str
    sample: Sample | None = None
    sizes: list[tuple[int, int]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def _looked_at(rows: Rows, places: Iterable[int], pool: ThreadPoolExecutor, reader: Reader | None) -> Iterator[_Looked]:
    """The findings of the rows in order; rows are read one after the other, and images are decoded in parallel."""
    waiting: deque[Future[_Looked]] = deque()
    lock = threading.Lock()  # a tokenizer serves one thread at a time
    for place in places:
        where = rows.records.where(place)
        try:
            waiting.append(pool.submit(_look, rows, rows.records.read(place), where, reader, lock))
        except DataError as error:
            unreadable: Future[_Looked] = Future()
            unreadable.set_result(_Looked(where, faults=[str(error)]))
            waiting.append(unreadable)
        if len(waiting) >= _ROWS_AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _look(rows: Rows, record: Record, where: str, reader: Reader | None, lock: threading.Lock) -> _Looked:
    try:
        fields = rows.format.fields(record, where, rows.folder)
    except DataError as error:
        return _Looked(where, faults=[str(error)])
    try:
        row = read_row(fields, where, rows.folder)
        sample = load_sample(row)
        notices = [f"{where}: {notice}" for image in row.images for notice in _image_notices(image)]
        episode = None
        if rows.format.name == codevision_sft.FORMAT.name:
            toolbox = CODE_TOOLS if reader is None else reader.conversation.toolbox
            episode = episode_of(record, where, rows.folder, toolbox)
            notices += _turn_notices(episode, where)
    except DataError as error:
        return _Looked(where, faults=row_faults(fields, where, rows.folder) or [str(error)])
    looked = _Looked(where, replace(sample, images=()), [image.size for image in sample.images], notices=notices)
    if reader is not None:
        try:
            with lock:
                reader.question(sample) if episode is None else reader.episode(episode)
        except (ConversationError, DataError, ConfigError) as error:
            return replace(looked, sample=None, faults=[f"{where}: the policy cannot use the row. {error}"])
    return looked


def _count(findings: Findings, sample: Sample, where: str, first_place: dict[str, str]) -> None:
    if sample.id in first_place:
        findings.faults.append(
            f"{where}: the id {sample.id!r} is also used in {first_place[sample.id]}. Give every row its own id."
        )
    first_place.setdefault(sample.id, where)
    findings.n_good += 1
    findings.families[sample.family] += 1
    findings.transforms["+".join(sample.transforms) or "none"] += 1
    findings.n_boxes += sample.box is not None


def _turn_notices(episode: Trajectory, where: str) -> Iterator[str]:
    """Notices about turns of a recorded conversation that a rollout would read differently."""
    for number, turn in enumerate(episode.turns):
        fault = _turn_fault(turn)
        if fault is None and turn.reply.answer is not None and number < len(episode.turns) - 1:
            fault = "it answers, so a rollout would end here, but the conversation continues."
        if fault is not None:
            yield f"{where}: turn {number} of the policy: {fault}"


def _turn_fault(turn: Turn) -> str | None:
    """Why a turn can be read neither with the code tool nor with named tools; None if it can be read."""
    named = parse_reply(turn.text, make_toolbox("named")).call
    return named.fault if named is not None and named.name else turn.reply.fault


def _image_notices(source: ImageSource) -> Iterator[str]:
    """Notices about the conversion of an image that is not plain RGB."""
    if isinstance(source, Image.Image):
        return
    with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
        if getattr(image, "n_frames", 1) > 1:
            yield f"an animated image: the first of its {getattr(image, 'n_frames', 1)} frames is used."
        if image.mode not in ("RGB", "RGBA", "L", "LA", "P", "1"):
            yield f"an image of mode {image.mode}: converted to RGB."


def describe(findings: Findings, n_faults: int) -> Iterator[str]:
    """The findings in lines of text."""
    for sample, sizes in findings.samples:
        yield f"\n  {sample.source} (id {sample.id})"
        yield f"    question    {_short(sample.question)}"
        also = f" (or {', '.join(map(_short, sample.alternatives))})" if sample.alternatives else ""
        yield f"    answer      {_short(sample.answer)}{also}, compared by the rule {sample.rule!r}"
        yield f"    images      {', '.join(f'{width} x {height}' for width, height in sizes) or 'none'}"
        yield f"    transforms  {', '.join(sample.transforms) or 'none'}"
        yield f"    box         {_box(sample, sizes)}"
        yield f"    family      {sample.family}"
    yield f"\ngood rows: {findings.n_good} of {findings.n_rows}, {findings.n_boxes} with a box"
    yield f"families: {_counts(findings.families)}"
    yield f"transforms: {_counts(findings.transforms)}"
    if findings.notices:
        yield from _some("notices", findings.notices, n_faults)
    yield from _some("faults", findings.faults, n_faults)


def _some(name: str, lines: Sequence[str], n_shown: int) -> Iterator[str]:
    yield f"{name}: {len(lines)}"
    yield from (f"  {line}" for line in lines[:n_shown])
    if len(lines) > n_shown:
        yield f"  ... and {len(lines) - n_shown} more; --faults N or --report FILE shows them"


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _SHOWN_CHARACTERS else f"{flat[:_SHOWN_CHARACTERS]}..."


def _box(sample: Sample, sizes: Sequence[tuple[int, int]]) -> str:
    if sample.box is None:
        return "none"
    x1, y1, x2, y2 = sample.box
    (width, height), *_ = sizes
    share = (x2 - x1) * (y2 - y1) / (width * height)
    return f"{[round(edge, 1) for edge in sample.box]}, {100 * share:.2g} % of the image"


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counter.most_common(20)) or "none"

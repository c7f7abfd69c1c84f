"""The paper's conversation as text and as token ids.

Text: an assistant turn is `<think>...</think>` and then one `<tool_call>{json}</tool_call>` or one
`<answer>...</answer>`; the environment replies with a user turn that holds `<tool_response>...</tool_response>`
(arXiv 2512.03746; Hermes format of Qwen).

Tokens: a `TokenSequence` only grows. Sampled tokens are appended unchanged. Text of the environment is encoded once,
piece by piece between special tokens; byte-level BPE never merges across special tokens, so the pieces equal the
encoding of the whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image

from cv_lightning.errors import ConversationError
from cv_lightning.frames import view_question
from cv_lightning.tools.code import CODE_TOOLS, SYSTEM_PROMPT
from cv_lightning.tools.reply_text import ONE_ACTION, SHAPE, read_turn
from cv_lightning.tools.toolbox import Size, Toolbox, Units
from cv_lightning.types import CODE_TOOL, Reply, Sample, TokenSequence, ToolCall, Trajectory, ViewedImage


def format_call(reasoning: str, call: ToolCall) -> str:
    """The text of an assistant turn that calls the code tool."""
    arguments = {"code": call.code, "description": call.description, "image_index": call.image_index}
    return format_tool_call(reasoning, CODE_TOOL, arguments)


def format_tool_call(reasoning: str, name: str, arguments: Mapping[str, Any]) -> str:
    """The text of an assistant turn that calls a tool by its name."""
    payload = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<think>{reasoning}</think>\n<tool_call>\n{payload}\n</tool_call>"


def format_answer(reasoning: str, answer: str) -> str:
    """The text of an assistant turn that answers."""
    return f"<think>{reasoning}</think>\n<answer>{answer}</answer>"


def parse_reply(text: str, toolbox: Toolbox = CODE_TOOLS, units: Units = ()) -> Reply:
    """Read an assistant turn by the rules of `tools.reply_text`. Calls and answers inside reasoning do not count.

    Args:
        text: The turn.
        toolbox: The tools that the policy has.
        units: Pixels per unit of its coordinates (`Toolbox.units`).

    Returns:
        A call, an answer, or a fault that tells the policy what to write instead. It never raises.
    """
    turn = read_turn(text)
    calls, answers = turn.calls, turn.answers
    if turn.open_tag == "think":
        return Reply(fault="The <think> tag was not closed. Close it, then give a tool call or an answer.")
    if turn.open_tag == "tool_call":
        return Reply(fault=f"The <tool_call> tag was not closed. Write <tool_call>{SHAPE}</tool_call>.")
    if not calls and not answers and "<answer>" in turn.words:
        return Reply(fault="The <answer> tag was not closed.")
    if len(calls) + len(answers) > 1:
        return Reply(fault=ONE_ACTION)
    if answers:
        return Reply(answer=answers[0].strip())
    if calls:
        return toolbox.read_content(calls[0].content, units) if calls[0].fault is None else Reply(fault=calls[0].fault)
    return Reply(fault="The turn holds neither <tool_call>...</tool_call> nor <answer>...</answer>.", is_silent=True)


def announce_images(parts: Sequence[str | Image.Image], n_before: int = 0) -> list[str | Image.Image]:
    """Put a line with its index and size before each image: `image 0: 3840 x 2160`.

    Args:
        parts: Texts and images in order.
        n_before: Number of earlier images in the conversation.

    Returns:
        Texts and images; adjacent texts are joined.
    """
    announced: list[str | Image.Image] = []
    for part in parts:
        text = part
        if not isinstance(part, str):
            text = announcement(n_before, part.size)
            n_before += 1
        if announced and isinstance(announced[-1], str) and isinstance(text, str):
            gap = "" if text is part or announced[-1].endswith("\n") else "\n"
            announced[-1] += gap + text
        else:
            announced.append(text)
        if text is not part:
            announced.append(part)
    return announced


def announcement(index: int, size: Size) -> str:
    """The line before an image of a size (width, height) in pixels."""
    return f"image {index}: {size[0]} x {size[1]}\n"


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that this module uses."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Text to ids."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Ids to text."""

    def convert_tokens_to_ids(self, tokens: str) -> int:
        """The id of one token."""


@dataclass(frozen=True)
class Template:
    """Markup of a model family's conversations; each mark is one token of its tokenizer. The defaults are Qwen's.

    Attributes:
        turn_start: Mark before the role of a turn.
        turn_end: Mark after a turn; the policy writes it itself.
        image: Mark before the placeholders of an image, the placeholder, and the mark after them.
        assistant: Name of the policy's role.
    """

    turn_start: str = "<|im_start|>"
    turn_end: str = "<|im_end|>"
    image: tuple[str, str, str] = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
    assistant: str = "assistant"


#: Qwen's.
QWEN_TEMPLATE = Template()

#: Maximum number of texts whose tokens a conversation keeps.
_MAX_ENCODED = 1024


@dataclass
class Conversation:
    r"""Writes conversations as token ids.

    Attributes:
        tokenizer: A tokenizer that has the tokens of the template.
        count_image_tokens: (width, height) of an image -> number of placeholder tokens that stand for it.
        system_prompt: Text of the system turn.
        max_context_tokens: Maximum length of a sequence; an observation that would exceed it is not appended.
        toolbox: The tools that the policy may call.
        template: Markup of turns and images.
        reply_start: Text that the chat template writes at the start of each turn of the policy: "<think>\n" if the
            template opens the reasoning.
        seen_size: (width, height) of an image -> the size at which the policy sees it.
    """

    tokenizer: Tokenizer
    count_image_tokens: Callable[[tuple[int, int]], int]
    system_prompt: str = SYSTEM_PROMPT
    max_context_tokens: int = 32768
    toolbox: Toolbox = CODE_TOOLS
    template: Template = QWEN_TEMPLATE
    reply_start: str = ""
    seen_size: Callable[[Size], Size] | None = None
    _encoded: dict[str, list[int]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self.end_of_turn_id = self._special(self.template.turn_end)
        self._start_id = self._special(self.template.turn_start)
        self._image_ids = [self._special(name) for name in self.template.image]

    def _special(self, token: str) -> int:
        encoded = self.tokenizer.encode(token, add_special_tokens=False)
        if len(encoded) != 1:
            raise ConversationError(
                f"tokenizer: expected one token for {token}, got {len(encoded)}. Use that of the policy's family."
            )
        return encoded[0]

    def _encode(self, text: str) -> list[int]:
        """Encode text that is not conversation markup: markup written inside it stays plain text."""
        return self._encode_markup(escape_markup(text))

    def _encode_markup(self, text: str) -> list[int]:
        """Encode text with its markup. Conversations repeat a few texts, which are encoded once."""
        ids = self._encoded.get(text)
        if ids is None:
            ids = self.tokenizer.encode(text, add_special_tokens=False)
            if len(self._encoded) >= _MAX_ENCODED:  # other threads may fill and clear it too
                self._encoded.clear()
            self._encoded[text] = ids
        return ids

    def _image(self, image: Image.Image) -> list[int]:
        start, pad, end = self._image_ids
        return [start, *[pad] * self.count_image_tokens(image.size), end]

    def start(self, sample: Sample) -> TokenSequence:
        """The prompt of a sample, up to the policy's turn.

        Raises:
            ConversationError: The prompt alone is longer than `max_context_tokens`.
        """
        tokens = TokenSequence(images=view_question(sample))
        ids = [*self.system_turn(self.system_prompt), *self.user_turn(sample.parts)]
        ids += self.opening()
        if len(ids) >= self.max_context_tokens:
            raise ConversationError(
                f"Sample {sample.id!r}: its prompt has {len(ids)} tokens but max_context_tokens="
                f"{self.max_context_tokens}. Raise max_context_tokens, or lower max_pixels of the policy."
            )
        tokens.append(ids, is_trained=False)
        return tokens

    def system_turn(self, prompt: str) -> list[int]:
        """A system turn. Its prompt is trusted: tags in it are encoded as the tokens that policies write."""
        system = self.tokenizer.encode(f"system\n{prompt}", add_special_tokens=False)
        return [self._start_id, *system, self.end_of_turn_id]

    def user_turn(self, parts: Sequence[str | Image.Image], n_before: int = 0) -> list[int]:
        """A user turn of texts and images, after another turn; markup written inside a text stays plain text.

        Args:
            parts: Texts and images in order.
            n_before: Number of earlier images in the conversation.
        """
        if self.toolbox.announces:
            parts = announce_images(parts, n_before)
        ids = [*self._encode("\n"), self._start_id, *self._encode("user\n")]
        for part in parts:
            ids += self._encode(part) if isinstance(part, str) else self._image(part)
        return [*ids, self.end_of_turn_id]

    def opening(self) -> list[int]:
        """The tokens between the end of a turn and the policy's reply."""
        role = f"{self.template.assistant}\n{self.reply_start}"
        return [*self._encode("\n"), self._start_id, *self._encode(role)]

    def decode_reply(self, ids: Sequence[int]) -> str:
        """The text of a turn: `reply_start` and the decoded ids, without the end-of-turn token."""
        kept = ids[:-1] if ids and ids[-1] == self.end_of_turn_id else ids
        return self.reply_start + self.tokenizer.decode(kept, skip_special_tokens=False)

    def encode_reply(self, text: str) -> list[int]:
        """The ids of a recorded turn, from the end of `opening` to the end of the turn.

        If `opening` begins the reasoning, the turn continues it: the turn's own `<think>` is dropped, and a turn
        without reasoning closes it at once.
        """
        if text.startswith(self.reply_start):
            text = text.removeprefix(self.reply_start)
        elif OPENS_REASONING.search(self.reply_start):
            begun = _BEGINS_REASONING.match(text)
            if begun is not None:
                text = text[begun.end() :]
            elif "</think>" not in text:
                text = f"\n</think>\n\n{text}"
        return [*self.tokenizer.encode(text, add_special_tokens=False), self.end_of_turn_id]

    def read_reply(self, text: str, images: Sequence[ViewedImage]) -> Reply:
        """Read a turn about some images: `parse_reply` with the policy's tools and coordinates."""
        units = self.toolbox.units([viewed.image.size for viewed in images], self.seen_size)
        return parse_reply(text, self.toolbox, units)

    def append_observation(self, tokens: TokenSequence, text: str, image: ViewedImage | None) -> bool:
        """Append a tool response and open the next assistant turn.

        Returns:
            False, with `tokens` unchanged, if the whole response does not fit.
        """
        ids = [*self._encode("\n"), self._start_id, *self._encode("user\n")]
        if image is None:
            ids += self._encode_markup(f"<tool_response>\n{escape_markup(text)}\n</tool_response>")
        else:
            opening = "<tool_response>\n"
            if self.toolbox.announces:
                opening += announcement(len(tokens.images), image.image.size)
            ids += self._encode_markup(opening)
            ids += self._image(image.image)
            ids += self._encode_markup(f"{escape_markup(text)}\n</tool_response>")
        ids += [self.end_of_turn_id, *self.opening()]
        if len(tokens) + len(ids) >= self.max_context_tokens:
            return False
        tokens.append(ids, is_trained=False)
        if image is not None:
            tokens.images.append(image)
        return True

    def append_question(self, tokens: TokenSequence, images: Sequence[ViewedImage], question: str) -> bool:
        """Append another question, with its new images, and open the next assistant turn.

        A turn that was cut off before its end is closed; its sampled tokens stay unchanged.

        Returns:
            False, with `tokens` unchanged, if the whole question does not fit.
        """
        opening = self.opening()
        is_open = tokens.ids[-len(opening) :] == opening  # the last turn is empty
        closing = [] if is_open or tokens.ids[-1] == self.end_of_turn_id else [self.end_of_turn_id]
        n_kept = len(tokens) - len(opening) * is_open
        parts: list[str | Image.Image] = [*(viewed.image for viewed in images), question]
        ids = [*closing, *self.user_turn(parts, len(tokens.images)), *opening]
        if n_kept + len(ids) >= self.max_context_tokens:
            return False
        del tokens.ids[n_kept:], tokens.is_trained[n_kept:], tokens.logprobs[n_kept:]
        tokens.append(ids, is_trained=False)
        tokens.images.extend(images)
        return True

    def encode(self, trajectory: Trajectory) -> TokenSequence:
        """A recorded trajectory as tokens, with the same mask as a sampled trajectory.

        Raises:
            ConversationError: The trajectory does not fit into `max_context_tokens`; nothing is cut off silently.
        """
        tokens = self.start(trajectory.sample)
        results = {viewed.turn: viewed for viewed in trajectory.images}
        for number, turn in enumerate(trajectory.turns):
            tokens.append(self.encode_reply(turn.text), is_trained=turn.is_trained)
            fits = len(tokens) < self.max_context_tokens
            if fits and turn.observation is not None:
                seen = turn.observation
                viewed = None if seen.image is None else results.get(number, ViewedImage(seen.image, turn=number))
                fits = self.append_observation(tokens, seen.text, viewed)
            if not fits:
                raise ConversationError(
                    f"Sample {trajectory.sample.id!r}: the recorded conversation is longer than "
                    f"max_context_tokens={self.max_context_tokens}. Raise it or leave the sample out."
                )
        return tokens


#: Matches a prompt that ends with open reasoning, which the policy continues.
OPENS_REASONING = re.compile(r"<think>\s*$")
_BEGINS_REASONING = re.compile(r"\s*<think>\s*")
_MARKUP = re.compile(r"<(\|[a-z_]+\||/?tool_response|/?tool_call)>")


def escape_markup(text: str) -> str:
    """Prevent text of the environment from opening turns, images or tool calls."""
    return _MARKUP.sub(lambda match: f"< {match.group(1)}>", text)

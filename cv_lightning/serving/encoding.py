"""Encodes a client's messages as the token ids of a policy's conversation."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from cv_lightning.conversation import Conversation
from cv_lightning.errors import ConversationError
from cv_lightning.serving.request import BadRequest, ChatRequest, Message
from cv_lightning.tools.reply_text import join_calls, split_calls
from cv_lightning.types import TokenSequence, ViewedImage

_OPENING, _CLOSING = "<tool_response>\n", "\n</tool_response>"

_SPECIAL = re.compile(r"<(\|[a-z_]+\|)>")

#: Number of replies whose ids are remembered.
_MAX_REMEMBERED = 4096

_TOOL_SECTION = """

# Tools
You may call one function per turn to help with the user query. \
You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

To call one, write a JSON object with its name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


class ChatEncoder:
    """Encodes conversations of clients to the same tokens as our own rollouts.

    A client sends a reply back as text, and a text can be tokenized in more than one way. So the ids of replies are
    remembered, and a conversation continues from exactly the tokens that were sampled. Threads may share an encoder.

    Args:
        conversation: The policy's conversation format.

    Attributes:
        lock: Must be held while the conversation is used, because its tokenizer serves one thread at a time.
    """

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.lock = threading.Lock()
        self._ids: OrderedDict[str, list[int]] = OrderedDict()

    def encode(self, request: ChatRequest, keeps_prompt: bool = False) -> TokenSequence:
        """Encode the conversation up to the point where the policy samples.

        Args:
            request: The client's request.
            keeps_prompt: Whether a client's system message is appended to the policy's own instead of replacing it.

        Raises:
            BadRequest: The conversation does not fit in the policy's context, or an image has an impossible shape.
        """
        with self.lock:
            try:
                tokens = self._encode(request, keeps_prompt)
            except ConversationError as error:
                raise BadRequest(str(error), "messages") from error
        if len(tokens) >= self.conversation.max_context_tokens:
            raise self._too_long(str(len(tokens)))
        return tokens

    def _too_long(self, n_tokens: str) -> BadRequest:
        limit = self.conversation.max_context_tokens
        message = f"This model's maximum context length is {limit} tokens. The messages have {n_tokens}."
        return BadRequest(message, "messages", "context_length_exceeded")

    def remember(self, tokens: TokenSequence, text: str, ids: Sequence[int]) -> None:
        """Remember the ids of `text`, a reply to the conversation `tokens`."""
        with self.lock:
            for spelled in {text, join_calls(*split_calls(text))}:
                key = _key(tokens, spelled)
                self._ids[key] = list(ids)
                self._ids.move_to_end(key)
            while len(self._ids) > _MAX_REMEMBERED:
                self._ids.popitem(last=False)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a reply without its end-of-turn token."""
        with self.lock:
            return self.conversation.decode_reply(ids)

    def _encode(self, request: ChatRequest, keeps_prompt: bool) -> TokenSequence:
        messages = list(request.messages)
        prompt = self.conversation.system_prompt
        if messages[0].role in ("system", "developer"):
            own = f"{prompt}\n\n" if keeps_prompt else ""
            prompt = own + plain(messages.pop(0).text) + _tool_section(request.tools)
        tokens = TokenSequence()
        tokens.append(self.conversation.system_turn(prompt), is_trained=False)
        is_open = False  # whether it is the policy's turn
        for message in _with_tool_images(messages):
            if message.role == "assistant":
                if not is_open:
                    tokens.append(self.conversation.opening(), is_trained=False)
                tokens.append(self._reply(tokens, message.text), is_trained=True)
                is_open = False
                continue
            if is_open:  # two turns in a row that are not the policy's: the opening goes after the last
                n = len(self.conversation.opening())
                del tokens.ids[-n:], tokens.is_trained[-n:], tokens.logprobs[-n:]
            self._append(tokens, message)
            is_open = True
        return tokens

    def _append(self, tokens: TokenSequence, message: Message) -> None:
        observation = _as_observation(message)
        if observation is None:
            tokens.append(self.conversation.user_turn(message.parts, len(tokens.images)), is_trained=False)
            tokens.append(self.conversation.opening(), is_trained=False)
            tokens.images.extend(map(ViewedImage, message.images))
            return
        text, image = observation
        viewed = None if image is None else ViewedImage(image)
        if not self.conversation.append_observation(tokens, text, viewed):
            raise self._too_long("more")

    def _reply(self, tokens: TokenSequence, text: str) -> list[int]:
        known = self._ids.get(_key(tokens, text))
        if known is not None:
            return known
        return self.conversation.encode_reply(plain(text))


def plain(text: str) -> str:
    """Prevent a client's text from opening turns or images; tags of tool calls are the policy's own and stay."""
    return _SPECIAL.sub(lambda match: f"< {match.group(1)}>", text)


def _tool_section(tools: Sequence[Mapping[str, Any]]) -> str:
    """The tools that a client offers in addition to its own system message, in Qwen's words."""
    if not tools:
        return ""
    return _TOOL_SECTION.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))


def _with_tool_images(messages: Sequence[Message]) -> list[Message]:
    """Move the image of a result, which many clients can only send in a user turn, into the tool's turn."""
    merged: list[Message] = []
    for message in messages:
        follows_tool = bool(merged) and merged[-1].role == "tool" and not merged[-1].images
        if follows_tool and message.role == "user" and not message.text and len(message.images) == 1:
            merged[-1] = merged[-1].model_copy(update={"content": [*message.content, *merged[-1].content]})
        else:
            merged.append(message)
    return merged


def _as_observation(message: Message) -> tuple[str, Image.Image | None] | None:
    """The text and image of a tool's turn, in whatever form the client sent it; None for other turns."""
    if len(message.images) > 1:
        return None
    image = message.images[0] if message.images else None
    text = message.text
    if message.role == "tool":
        return text, image
    if text.startswith(_OPENING) and text.endswith(_CLOSING):
        return text.removeprefix(_OPENING).removesuffix(_CLOSING), image
    return None


def _key(tokens: TokenSequence, text: str) -> str:
    images = [viewed.key.hex() for viewed in tokens.images]
    return hashlib.sha256(json.dumps([tokens.ids, images, text]).encode()).hexdigest()

"""A request to `POST /inference/v1/generate` and its reply: token ids in, token ids out, no text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cv_lightning.endpoint.reply import read_object
from cv_lightning.errors import EngineError

#: Bias that makes a token's probability 0 in float32; the lowest bias that vLLM allows.
_BANNED = -100.0
#: vLLM refuses a higher temperature.
MAX_TEMPERATURE = 2.0


class BrokenReply(Exception):
    """A reply that does not match the request; the same request may succeed later."""


class Aborted(Exception):
    """The engine stopped in the middle of the turn, such as for new weights; its tokens are dropped."""


@dataclass(frozen=True)
class EngineReply:
    """A sampled turn.

    Attributes:
        ids: The sampled tokens.
        logprobs: Log-probability of each token under the distribution from which it was sampled.
        is_finished: Whether the turn ended by itself.
        weights: (label, start, end): the label of the weights that sampled tokens `start` to `end`. None if the turn
            was cut, because the engine reports them at the end.
    """

    ids: list[int]
    logprobs: list[float]
    is_finished: bool
    weights: tuple[tuple[str, int, int], ...] | None


def collapsed(ids: Sequence[int], image_id: int, n_images: int) -> list[int]:
    """The ids with one placeholder for each image; the engine expands it itself.

    Args:
        ids: Ids with a run of placeholders for each image.
        image_id: The placeholder.
        n_images: Images of the conversation.

    Raises:
        EngineError: The number of runs differs from `n_images`; the engine would silently read another prompt.
    """
    kept = [token for k, token in enumerate(ids) if token != image_id or k == 0 or ids[k - 1] != image_id]
    if kept.count(image_id) != n_images:
        raise EngineError(
            f"context: expected a run of image tokens for each of {n_images} images, got {kept.count(image_id)}. "
            "This is a fault of the conversation, not of the engine."
        )
    return kept


def bias(banned: Sequence[int]) -> dict[str, float]:
    """The `logit_bias` that bans tokens."""
    return {str(token): _BANNED for token in banned}


def sampling_parameters(
    temperature: float, seed: int, max_tokens: int, end_id: int, logit_bias: Mapping[str, float]
) -> dict[str, Any]:
    """The sampling parameters of a turn.

    Args:
        temperature: 0 takes the most probable token.
        seed: Seed of this request; without a seed, all data-parallel engines sample the same tokens.
        max_tokens: Longest turn.
        end_id: The token that ends a turn; it is part of the reply.
        logit_bias: From `bias`.
    """
    parameters: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens, "logprobs": 0}
    parameters |= {"stop_token_ids": [end_id], "ignore_eos": True, "detokenize": False, "skip_special_tokens": False}
    if temperature > 0:
        parameters["seed"] = seed
    if logit_bias:
        parameters["logit_bias"] = logit_bias
    return parameters


def read_reply(content: bytes, expected_ids: Sequence[int]) -> EngineReply:
    """Read a reply.

    Args:
        content: The body of the response.
        expected_ids: The ids of the prompt, placeholders expanded.

    Raises:
        BrokenReply: The reply is cut short or incomplete.
        Aborted: The engine gave up the turn.
        EngineError: The engine read another prompt, and would do so again.
    """
    return _read(_object(content), expected_ids)


class StreamedReply:
    """A reply whose tokens arrive while they are sampled.

    Args:
        expected_ids: The ids of the prompt, placeholders expanded.
    """

    def __init__(self, expected_ids: Sequence[int]) -> None:
        self._expected_ids = expected_ids
        self._content: list[Any] = []
        self._choice: dict[str, Any] = {"token_ids": [], "logprobs": {"content": self._content}}
        self._answer: dict[str, Any] = {"choices": [self._choice], "prompt_token_ids": None}

    @property
    def ids(self) -> list[int]:
        """The tokens so far."""
        return [*self._choice["token_ids"]]

    def add(self, line: str) -> bool:
        """Add a line of the response; returns whether it has tokens. Raises the errors of `read_reply`."""
        data = line.removeprefix("data:").strip()
        if data in ("", "[DONE]"):
            return False
        chunk = _object(data.encode())
        try:
            if chunk.get("prompt_token_ids") is not None:
                self._answer["prompt_token_ids"] = chunk["prompt_token_ids"]
                _check_prompt(chunk["prompt_token_ids"], self._expected_ids)
            (choice,) = chunk["choices"]
            self._choice["token_ids"] += choice["token_ids"]
            self._content += (choice["logprobs"] or {"content": ()})["content"]
            self._choice |= {key: choice[key] for key in ("finish_reason", "weight_versions")}
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise _broken(error, chunk) from error
        return bool(choice["token_ids"])

    def whole(self) -> EngineReply:
        """The reply, once the response has ended. Raises the errors of `read_reply`."""
        return _read(self._answer, self._expected_ids)

    def cut(self, n: int, end_id: int) -> EngineReply:
        """Only the first `n` tokens."""
        ids = self.ids[:n]
        return EngineReply(ids, [float(entry["logprob"]) for entry in self._content[:n]], end_id in ids, None)


def _object(content: bytes) -> dict[str, Any]:
    try:
        return read_object(content)
    except ValueError as error:
        raise _broken(error, content.decode("utf-8", "replace")) from error


def _broken(error: Exception, content: Any) -> BrokenReply:
    excerpt = " ".join(str(content)[:200].split())
    return BrokenReply(f"the reply has an unexpected form ({error!r}): {excerpt}")


def _read(answer: dict[str, Any], expected_ids: Sequence[int]) -> EngineReply:
    try:
        (choice,) = answer["choices"]
        ids = [int(token) for token in choice["token_ids"]]
        logprobs = [float(entry["logprob"]) for entry in choice["logprobs"]["content"]]
        prompt, reason = answer["prompt_token_ids"], choice["finish_reason"]
        weights = tuple((str(s["version"]), int(s["start"]), int(s["end"])) for s in choice["weight_versions"] or ())
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise _broken(error, answer) from error
    if reason == "abort":
        raise Aborted("the engine gave up the turn")
    _check_prompt(prompt, expected_ids)
    if len(logprobs) != len(ids) or reason not in ("stop", "length"):
        raise BrokenReply(f"{len(ids)} tokens with {len(logprobs)} log-probabilities ended with {reason!r}")
    return EngineReply(ids, logprobs, reason == "stop", weights)


def _check_prompt(prompt: Any, expected_ids: Sequence[int]) -> None:
    if prompt != list(expected_ids):
        raise EngineError(_other_prompt(prompt, expected_ids))


def _other_prompt(actual: Any, expected: Sequence[int]) -> str:
    got = f"{len(actual)} others" if isinstance(actual, list) else repr(actual)
    return (
        f"prompt_token_ids: expected the {len(expected)} ids of the conversation, got {got}. The engine cuts images "
        "differently from the policy: start it with the policy's min_pixels and max_pixels as --mm-processor-kwargs, "
        "and with the policy's own tokenizer and preprocessor_config.json; `launch` does."
    )

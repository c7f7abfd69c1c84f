"""Checks whether a model of the Hugging Face hub can be downloaded, and suggests a remedy if not."""

from __future__ import annotations

from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    RepositoryNotFoundError,
)

from cv_lightning.errors import CheckpointError, first_line

#: Seconds that the hub may take to answer.
_TIMEOUT_S = 10


def check_hub(name: str) -> None:
    """Raise `CheckpointError` at once if a model is neither in the cache nor available from the hub.

    Without this check, half a minute of retries ends in an error of the HTTP library.
    """
    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return
    if constants.HF_HUB_OFFLINE:
        raise CheckpointError(
            f"policy.source: {name!r} is not in the cache ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE is set. "
            f"{_by_hand(name)}"
        )
    try:
        HfApi().model_info(name, timeout=_TIMEOUT_S)
    except GatedRepoError as error:
        raise CheckpointError(f"policy.source: {name!r} is gated. {_log_in(name)}") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"policy.source: the hub has no model {name!r}, or you may not see it. Check the name. If it is right: "
            f"{_log_in(name)}"
        ) from error
    except (HfHubHTTPError, HTTPError, OSError) as error:
        raise CheckpointError(
            f"policy.source: {name!r} is not in the cache, and the hub cannot be reached "
            f"({first_line(error)}). {_by_hand(name)}"
        ) from error


def remedy(source: str, is_local: bool) -> str:
    """Advice for a model that exists but cannot be loaded, mostly because a download was interrupted."""
    if is_local:
        return "If a file is missing or cut short, copy or download the folder again."
    return f"If a file is missing or cut short, download it again: hf download {source}"


def _by_hand(name: str) -> str:
    return (
        f"Download it where there is a network (hf download {name} --local-dir DIR), copy the folder, and give "
        "--model.init_args.policy.init_args.source DIR."
    )


def _log_in(name: str) -> str:
    return f"Accept its terms at https://huggingface.co/{name} and log in: hf auth login."

"""Image features of a frozen vision tower, cached for later turns, the update and the reference."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from torch import Tensor

#: Maximum bytes of the cache; features that do not fit are computed again.
_MAX_BYTES = 1 << 30


class Features:
    """Encoder output of images, by a key of their pixels."""

    def __init__(self) -> None:
        self.is_open = False
        self._n_bytes = 0
        self._of_key: dict[bytes, list[Tensor]] = {}

    def __contains__(self, key: bytes) -> bool:
        return key in self._of_key

    def clear(self) -> None:
        """Empty the cache and close it."""
        self.is_open, self._n_bytes, self._of_key = False, 0, {}

    def joined(self, keys_N: Sequence[bytes], missing: Sequence[int], encoded: Any) -> Any:
        """Encoder output of N images; `encoded` is that of the `missing` images, which are then cached."""
        parts_N = [self._of_key.get(key, []) for key in keys_N]
        for index, place in enumerate(missing):
            layers = [layer[index] for layer in getattr(encoded, "deepstack_features", None) or ()]
            parts_N[place] = [encoded.pooler_output[index], *layers]
            self._keep(keys_N[place], parts_N[place])
        pooled, *layers_N = zip(*parts_N, strict=True)
        return SimpleNamespace(pooler_output=[*pooled], deepstack_features=[[*layer] for layer in layers_N] or None)

    def _keep(self, key: bytes, parts: list[Tensor]) -> None:
        n_bytes = sum(part.nbytes for part in parts)
        if self._n_bytes + n_bytes <= _MAX_BYTES:
            self._of_key[key] = [part.detach() for part in parts]
            self._n_bytes += n_bytes

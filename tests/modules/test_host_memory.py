"""Freed memory is reused without new pages."""

from __future__ import annotations

import platform
import resource

import pytest
import torch

from modules.host_memory import keep_freed_memory

N_BYTES = 24 << 20


def new_pages() -> int:
    """Pages that the kernel provides while a block is allocated, written and freed."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(N_BYTES // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator can be told")
def test_freed_memory_is_kept() -> None:
    assert keep_freed_memory()
    new_pages()
    assert new_pages() < N_BYTES / resource.getpagesize() / 10

"""Starts the zygote's program: our own interpreter, with an empty environment, no terminal and one socket."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

_BOOT = """
import json, sys, types
descriptor, settings, paths, home = sys.argv[1:]
sys.path[:] = json.loads(paths)
package = types.ModuleType("sandbox")
package.__path__ = [home]
sys.modules["sandbox"] = package
del sys.argv[1:], sys.orig_argv[:]
from sandbox.confined.zygote import main
main(int(descriptor), settings)
"""


def start(descriptor: int, settings: str) -> subprocess.Popen[bytes]:
    """Start the zygote with an empty environment, no terminal and no other descriptor."""
    home = str(Path(__file__).resolve().parents[1])
    paths = json.dumps([path for path in sys.path if path and Path(path).is_absolute()])
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    # A worker keeps the memory that it frees: on many machines, page faults of new memory cost more than the work.
    keep = {"MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_MMAP_THRESHOLD_": str(2**30)}
    # Large pages reduce the number of those faults.
    large = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    environment = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", **single, **keep, **large}
    if "LD_LIBRARY_PATH" in os.environ:
        environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    flags = ("-s", "-P", "-B", "-X", "utf8")
    return subprocess.Popen(  # noqa: S603 - our own interpreter and our own text
        [sys.executable, *flags, "-c", _BOOT, str(descriptor), settings, paths, home],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(descriptor,),
        cwd="/",
        start_new_session=True,
    )

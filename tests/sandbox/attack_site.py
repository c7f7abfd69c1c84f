"""Targets of hostile code: files with a canary, listeners on loopback, and checks of whether the code reached them."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sandbox import Observation

CANARY = "SBX" + "CANARY7f3a9"
COLOR = (13, 37, 200)


class Site:
    """A folder of secrets that anybody may read and write, and listeners that must hear nothing."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sbx_probe_"))
        self.folder.chmod(0o777)
        self.prefix = str(self.folder / "pwn")
        (self.folder / "secret.txt").write_text(CANARY)
        (self.folder / "secret.yml").write_text(f"%YAML:1.0\nsecret: {CANARY}\n")
        np.save(self.folder / "secret.npy", np.frombuffer(CANARY.encode(), np.uint8))
        Image.new("RGB", (16, 16), COLOR).save(self.folder / "secret.png")
        for path in self.folder.iterdir():
            path.chmod(0o666)
        self._before = self._state()
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with contextlib.suppress(OSError):
            self.unix.bind("\0sbx_probe")
            self.unix.listen(1)
        self._listeners = (self.tcp, self.udp, self.unix)
        for listener in self._listeners:
            listener.setblocking(False)

    def fill(self, code: str) -> str:
        """The code with the paths, ports and canary of the site filled in."""
        places = {
            "@PROBE@": str(self.folder),
            "@PWN@": self.prefix,
            "@CANARY@": CANARY,
            "@TCP@": str(self.tcp.getsockname()[1]),
            "@UDP@": str(self.udp.getsockname()[1]),
            "47113": str(self.tcp.getsockname()[1]),
            "47114": str(self.udp.getsockname()[1]),
        }
        for name, value in places.items():
            code = code.replace(name, value)
        return code

    def _state(self) -> dict[str, tuple[int, int, bytes]]:
        paths = [*self.folder.rglob("*"), Path("/etc/hostname")]
        return {str(p): (p.stat().st_mode, p.stat().st_mtime_ns, p.read_bytes()) for p in paths if p.is_file()}

    def complaints(self, observation: Observation) -> list[str]:
        """Targets that the code reached, found in the files, at the listeners and in the observation."""
        found = []
        if CANARY in observation.text or CANARY[::-1] in observation.text or "root:x:0" in observation.text:
            found.append("it read a secret")
        if observation.image is not None and COLOR in {
            color for _, color in observation.image.getcolors(1 << 20) or []
        }:
            found.append("it read the secret image")
        if self._state() != self._before:
            found.append("it changed a file")
        if [*Path("/tmp").glob("sbx_pwn*"), *Path("/dev/shm").glob("sbx_pwn*")]:
            found.append("it made a file")
        with contextlib.suppress(BlockingIOError):
            self.tcp.accept()
            found.append("it connected by TCP")
        with contextlib.suppress(BlockingIOError):
            self.udp.recv(10)
            found.append("it sent a datagram")
        with contextlib.suppress(OSError):
            self.unix.accept()
            found.append("it connected to an abstract socket")
        return found

    def close(self) -> None:
        for listener in self._listeners:
            listener.close()
        shutil.rmtree(self.folder)


def descendants(root: int) -> set[int]:
    """Ids of all descendants of a process."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
    below: set[int] = set()
    while True:
        more = {pid for pid, parent in parents.items() if parent == root or parent in below} - below
        if not more:
            return below
        below |= more


def check_probes(probes: list[dict[str, Any]], observation: Observation, site: Site) -> list[str]:
    """The probes of the corpus that fail."""
    failed = []
    for probe in probes:
        match probe["type"]:
            case "file_absent" if os.path.lexists(site.fill(probe["path"])):
                failed.append(f"{probe['path']} exists")
            case "glob_absent" if list(Path("/").glob(site.fill(probe["pattern"]).lstrip("/"))):
                failed.append(f"{probe['pattern']} exists")
            case "port_closed":
                with socket.socket() as client:
                    if client.connect_ex(("127.0.0.1", probe["port"])) == 0:
                        failed.append("a port is open")
            case "max_wall_s" if observation.wall_s > probe["s"]:
                failed.append(f"it took {observation.wall_s} s")
            case "max_output_chars" if len(observation.text) > probe["n"]:
                failed.append("too much text")
            case "text_sanitized" if any(
                token in observation.text for token in ("<|", "\x1b", "\ud800", "<tool_call>")
            ):
                failed.append("markup in the text")
    return failed

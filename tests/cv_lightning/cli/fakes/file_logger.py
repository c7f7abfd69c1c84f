"""A logger that records its calls in a file."""

from __future__ import annotations

from pathlib import Path


class FileLogger:
    """Writes to `<folder>/log.txt`."""

    def __init__(self, folder: str) -> None:
        self.file = Path(folder) / "log.txt"

    def log_artifact(self, path: Path) -> None:
        self._note(path.name if path.exists() else "missing")

    def finalize(self, status: str) -> None:
        self._note(status)

    def _note(self, line: str) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

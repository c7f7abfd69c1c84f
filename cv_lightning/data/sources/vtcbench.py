"""VTC-Bench (arXiv 2603.15030): `data/VTC-Bench.tsv` of the authors' repository, and `VTC-Bench_GTToolChain.tsv`.

`index`, `id`, `category`, `image` (a path relative to the table; the images are on the hub, `zzzhu/VTC-Bench`),
`question`, `answer`, `A` to `D`. Without options, the answer is a text or a number, in any alphabet. The second file
adds the tools of a reference solution, `model_tools_gt`. They are ignored, because no metric here compares names of
OpenCV's tools.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cv_lightning.data.sources import hrbench
from cv_lightning.data.sources.formats import Format, columns, unwrap_images
from cv_lightning.data.sources.records import Record


def fields(record: Record, where: str, folder: Path) -> dict[str, Any]:
    """The fields of a row: as in `hrbench`, but images are files, and answers may be words."""
    row = hrbench.fields({**record, "image": None}, where, folder)
    return row | {
        "id": record.get("id") or row["id"],
        "images": unwrap_images(record.get("image"), where),
        "rule": "choice" if row["alternatives"] else "match",
    }


FORMAT = Format(
    "vtcbench",
    "VTC-Bench",
    [columns("index", "id", "category", "image", "question", "answer", "A", "B", "C", "D")],
    fields,
)

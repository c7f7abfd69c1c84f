"""Lists the operations that the lane supports under each contract, and why it leaves the others to the Pillow lane.

*exact*: every operation gives Pillow's and OpenCV's own bits. *close*: an operation may be Kornia's; `TensorKind.most`
is its largest difference from the library. docs/kornia_lane.md lists the measured differences.
"""

from __future__ import annotations

from sandbox.lanes.tensor import filters, moving, opencv, resampling, values
from sandbox.lanes.tensor.kinds import KINDS, TensorKind
from sandbox.operations.operation import State, Values
from sandbox.operations.table import OPERATIONS
from sandbox.types import Exactness

#: The modules that fill `KINDS`.
MODULES = (filters, moving, opencv, resampling, values)

#: The operations that the lane leaves to the Pillow lane under both contracts, and the reasons.
DECLINED: dict[str, str] = {
    "cv2.fastNlMeansDenoising": "a search around every pixel: seconds, wherever it runs",
    "cv2.fastNlMeansDenoisingColored": "a search around every pixel: seconds, wherever it runs",
    "cv2.Canny": "edges are followed pixel by pixel, in as many rounds as the longest is long",
    "cv2.createCLAHE": "Kornia's differs by up to 47 of 255, and a copy costs more than OpenCV's own",
    "ImageFilter.ModeFilter": "counts of 256 values for every pixel",
    **dict.fromkeys(
        ("ImageDraw.rectangle", "ImageDraw.ellipse", "ImageDraw.line"), "a few strokes: no batch operation"
    ),
}

#: Reason for calls that only the contract "close" allows.
INEXACT = "no tensor operation gives the library's own bits"

#: Reasons for leaving some calls of an operation to the Pillow lane.
PARTLY_DECLINED: dict[str, str] = {name: kinds[-1].reason for name, kinds in KINDS.items() if kinds[-1].reason}


def kind_of(name: str, values: Values, state: State, exactness: Exactness) -> TensorKind | str:
    """How the lane runs a call; or, as text, the operation and why it is left to the Pillow lane.

    Args:
        name: A key of `sandbox.operations.table.OPERATIONS`.
        values: One value for each parameter.
        state: Size (width, height) and mode before the call.
        exactness: The contract.
    """
    bound = OPERATIONS[name].bound
    if name in DECLINED:
        reason = DECLINED[name]
    elif not bound.holds(values, state.size):  # time and memory must be bounded in every lane
        reason = bound.reason
    else:
        for kind in KINDS[name]:
            if kind.refuses(values, state):
                reason = kind.reason
            elif exactness == "exact" and not kind.is_exact(values):
                reason = INEXACT
            else:
                return kind
    return f"{name}: {reason}"

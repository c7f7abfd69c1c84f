"""The place of each image of a trajectory in the question's image."""

from __future__ import annotations

from cv_lightning.types import Sample, ToolCall, Trajectory, ViewedImage
from sandbox import Affine, Observation, compose


def view_question(sample: Sample) -> list[ViewedImage]:
    """The images of the question, each its own root."""
    return [ViewedImage(image, root, Affine(), "identity") for root, image in enumerate(sample.images)]


def view_result(trajectory: Trajectory, call: ToolCall, observation: Observation, turn: int) -> ViewedImage:
    """Place a result image: compose its frame and orientation with those of its source image.

    Args:
        trajectory: Holds the images so far.
        call: The call that made the image; its `image_index` was valid, or there would be no image.
        observation: The result of the call, with an image.
        turn: Index of the turn.
    """
    if observation.image is None:
        raise ValueError(f"observation: expected an image, got status={observation.status!r}")
    source = trajectory.images[call.image_index]
    frame = None if observation.frame is None or source.frame is None else observation.frame.then(source.frame)
    known = observation.orientation is not None and source.orientation is not None
    orientation = compose(source.orientation or "", observation.orientation or "") if known else None
    return ViewedImage(observation.image, source.root, frame, orientation, turn)


def see_result(trajectory: Trajectory) -> None:
    """Append the image that the last turn's call made, if any, to the images that the policy has seen."""
    turn = trajectory.turns[-1]
    call, observation = turn.reply.call, turn.observation
    if call is not None and observation is not None and observation.image is not None:
        trajectory.images.append(view_result(trajectory, call, observation, len(trajectory.turns) - 1))

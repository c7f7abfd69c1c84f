"""Bad rows: each error names the row, the fault and the remedy."""

from __future__ import annotations

from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cv_lightning.data.orientation import restore_sample
from cv_lightning.data.rows import open_image, sample_from_row
from cv_lightning.errors import DataError
from cv_lightning.types import Sample

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def encoded(kind: str = "PNG", image: Image.Image | None = None, **options: Any) -> bytes:
    buffer = BytesIO()
    (image or Image.fromarray(PIXELS)).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.png").write_bytes(encoded())
    (tmp_path / "short.png").write_bytes(encoded()[:500])
    (tmp_path / "short.jpg").write_bytes(encoded("JPEG")[:500])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("this is no image")
    return tmp_path


def row(**changes: Any) -> dict[str, Any]:
    return {"question": "What?", "images": ["a.png"], "answer": "this"} | changes


def test_a_right_row_becomes_a_sample(folder: Path) -> None:
    fields = row(
        id="q1", answer=42, transforms=["rotate_90", "crop"], box=[1, 2, 40, 30.0], family="chart", note="kept out"
    )
    sample = sample_from_row(fields, "rows.jsonl, line 3", folder)
    assert sample.images[0].mode == "RGB"
    assert np.array_equal(np.asarray(sample.images[0]), PIXELS)
    expected = ("q1", "What?", "42", ("rotate_90", "crop"), (1.0, 2.0, 40.0, 30.0), "chart", "rows.jsonl, line 3")
    read = (sample.id, sample.question, sample.answer, sample.transforms, sample.box, sample.family, sample.source)
    assert read == expected
    assert sample.required_tools == {"rotate_270", "crop"}


@pytest.mark.parametrize(
    "images", ["a.png", ["a.png"], [encoded()], Image.fromarray(PIXELS), [Image.fromarray(PIXELS)]]
)
def test_images_may_be_paths_bytes_or_images(images: Any, folder: Path) -> None:
    sample = sample_from_row(row(images=images), "row 0", folder)
    assert np.array_equal(np.asarray(sample.images[0]), PIXELS)
    assert sample.id == "row 0", "a row without an id is named by its place"


@pytest.mark.parametrize("images", [[], None])
def test_a_row_may_have_no_image(images: Any, folder: Path) -> None:
    sample = sample_from_row(row(images=images), "row 0", folder)
    assert (sample.images, sample.parts, sample.required_tools) == ((), ("What?",), frozenset())


def test_places_of_images_between_words(folder: Path) -> None:
    images = [Image.new("RGB", (4, 4), color) for color in ("red", "green", "blue")]
    fields = row(images=images, question="<image> is Monday, <image> is Friday.")
    sample = sample_from_row(fields, "row 0", folder)
    first, *others = sample.parts
    assert first is sample.images[0], "an image without a place comes first"
    assert others == [sample.images[1], " is Monday, ", sample.images[2], " is Friday."]
    assert [image.getpixel((0, 0)) for image in sample.images] == [(255, 0, 0), (0, 128, 0), (0, 0, 255)]


def test_an_image_of_a_wide_shape_is_read(folder: Path) -> None:
    assert sample_from_row(row(images=[encoded(image=Image.new("RGB", (400, 2)))]), "r").images[0].size == (400, 2)


def test_a_text_that_is_too_long_for_a_path_is_a_fault_of_the_row(folder: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        sample_from_row({"question": "?", "images": ["x" * 400], "answer": "x"}, "line 1", folder)


def test_exif_orientation_comes_before_box_and_transforms(tmp_path: Path) -> None:
    """A phone stores 40 x 30 pixels and an EXIF turn; box and transforms refer to the turned image of 30 x 40."""
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show the image turned by 90 degrees clockwise
    upright = Image.fromarray(PIXELS).transpose(Image.Transpose.ROTATE_270)
    for kind in ("PNG", "TIFF", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        fields = row(images=[encoded(kind, exif=exif, **options)], box=[0, 30, 30, 40], transforms=["rotate_90"])
        sample = sample_from_row(fields, "row 0", tmp_path)
        assert sample.images[0].tobytes() == upright.tobytes(), kind
        assert sample.box == (0, 30, 30, 40), "inside of 30 x 40, outside of 40 x 30"
        assert restore_sample(sample).images[0].tobytes() == upright.transpose(Image.Transpose.ROTATE_270).tobytes()
    with pytest.raises(DataError, match=r"box: expected .* <= 30 .* <= 40"):
        sample_from_row(row(images=[encoded(exif=exif)], box=[0, 0, 40, 30]), "row 0")


def test_several_images_and_absolute_paths(folder: Path) -> None:
    sample = sample_from_row(row(images=[str(folder / "a.png"), encoded()]), "row 0", Path("/elsewhere"))
    assert len(sample.images) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": ["gone.png"]}, r"gone\.png does not exist\. Correct the path or remove the row"),
        ({"images": ["."]}, "does not exist"),
        ({"images": ["short.png"]}, r"short\.png cannot be read.*truncated.*Replace the image"),
        ({"images": ["short.jpg"]}, r"short\.jpg cannot be read.*truncated.*Replace the image"),
        ({"images": ["empty.png"]}, r"empty\.png cannot be read.*no image"),
        ({"images": ["text.png"]}, r"text\.png cannot be read.*no image"),
        ({"images": [b"\x89PNG\r\n\x1a\n"]}, "image of the row cannot be read"),
        ({"images": [], "box": [0, 0, 1, 1]}, "no image. Name one in 'images' or remove its transforms and box"),
        ({"images": None, "transforms": ["crop"]}, "no image. Name one"),
        ({"images": [], "question": "<image> What?"}, "images: expected at least 1, .*<image> in the question, got 0"),
        ({"question": "<image> or <image>?"}, "images: expected at least 2, .*<image> in the question, got 1"),
        ({"images": [Image.new("RGB", (201, 1))]}, "201 x 1 pixels; expected sides that differ by a factor of 200"),
        ({"images": [encoded(image=Image.new("RGB", (2, 402)))]}, "2 x 402 pixels; expected sides"),
        ({"images": [""]}, "path of an image"),
        ({"images": ["a\0.png"]}, "path of an image"),
        ({"images": [7]}, "path of an image, got 7"),
        ({"answer": None}, "no answer .it has: question, images, answer.*Add one or remove"),
        ({"answer": "  "}, "no answer"),
        ({"answer": ["x"]}, "answer: expected text or a number"),
        ({"answer": True}, "answer: expected text or a number, got True"),
        ({"answer": float("nan")}, "answer: expected text or a number"),
        ({"question": ""}, "no question"),
        ({"question": 3.5}, None),
        ({"transforms": ["rotate_45"]}, "transforms: expected one of rotate_90.*got 'rotate_45'"),
        ({"transforms": "flip"}, "transforms: expected .*got 'flip'"),
        ({"transforms": [90]}, "list of names"),
        ({"transforms": {"rotate_90": 1}}, "list of names"),
        ({"box": [0, 0, 41, 30]}, r"box: expected .*x1 < x2 <= 40 .*y1 < y2 <= 30, got"),
        ({"box": [-1, 0, 10, 10]}, "box: expected .* <= 40 "),
        ({"box": [10, 5, 10, 9]}, "box: expected .* <= 40 "),
        ({"box": [20, 5, 10, 9]}, "box: expected .* <= 40 "),
        ({"box": [0, 0, 1]}, "four numbers"),
        ({"box": "0 0 1 1"}, "four numbers"),
        ({"box": [0, 0, 1, "1"]}, "four numbers"),
        ({"box": [0, 0, 1, float("inf")]}, "four numbers"),
        ({"box": [False, 0, 1, 1]}, "four numbers"),
        ({"bbox": [0, 0, 1, 1]}, "unknown field 'bbox'. Did you mean 'box'"),
        ({"transform": ["crop"]}, "unknown field 'transform'. Did you mean 'transforms'"),
    ],
    ids=lambda value: repr(value).partition(" at 0x")[0],  # workers of pytest-xdist must give the same names
)
def test_a_bad_row_says_where_what_and_how_to_mend_it(changes: dict[str, Any], words: str | None, folder: Path) -> None:
    if words is None:
        assert sample_from_row(row(**changes), "rows.jsonl, line 3", folder).question == "3.5"
        return
    with pytest.raises(DataError, match=words) as caught:
        sample_from_row(row(**changes), "rows.jsonl, line 3", folder)
    assert str(caught.value).startswith("rows.jsonl, line 3")


@pytest.mark.parametrize("fields", [None, 3, "row", ["question"]])
def test_what_is_no_object_says_so(fields: Any) -> None:
    with pytest.raises(DataError, match="row 5: expected an object with id, question"):
        sample_from_row(fields, "row 5")


def test_the_id_is_named_with_the_place_once_it_is_known(folder: Path) -> None:
    with pytest.raises(DataError, match=r"^rows, line 3 \(id 'q1'\): box: "):
        sample_from_row(row(id="q1", box=[0, 0, 99, 99]), "rows, line 3", folder)


@given(
    kind=st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"]),
    cut=st.floats(0, 1),
    noise=st.binary(max_size=40),
)
def test_broken_bytes_never_raise_anything_else(kind: str, cut: float, noise: bytes) -> None:
    whole = encoded(kind)
    place = int(cut * len(whole))
    for broken in (whole[:place], whole[:place] + noise + whole[place + len(noise) :]):
        mode = "RGB"
        with suppress(DataError):
            mode = open_image(broken, "row 1").mode
        assert mode == "RGB"


def test_an_image_that_may_not_be_read_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)  # root may read everything
    with pytest.raises(DataError, match=r"may not be read\. Change its permissions"):
        open_image(folder / "a.png", "row 3")


def test_an_image_that_grows_beyond_all_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"cannot be read.*decompression bomb"):
        open_image(encoded(), "row 1")


def test_an_image_is_seen_as_a_viewer_shows_it() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    shown = open_image(encoded("PNG", exif=exif), "row 1")
    assert np.array_equal(np.asarray(shown), np.rot90(PIXELS, -1))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_ground_is_white(mode: str) -> None:
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.putpixel((1, 1), (0, 0, 0, 255))
    opened = open_image(encoded("PNG", image.convert(mode)), "row 1")
    assert opened.getpixel((0, 0)) == (255, 255, 255)
    assert opened.getpixel((1, 1)) == (0, 0, 0)


def test_a_16_bit_image_keeps_its_contrast() -> None:
    values = np.linspace(0, 65535, 16, dtype=np.uint16).reshape(4, 4)
    opened = np.asarray(open_image(encoded("PNG", Image.fromarray(values)), "row 1"))
    assert opened[0, 0, 0] == 0
    assert opened[3, 3, 0] == 255
    assert len(np.unique(opened)) == 16


def test_the_sample_is_whole(folder: Path) -> None:
    assert isinstance(sample_from_row(row(), "row 0", folder), Sample)

import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from ensemble_tune.ensemble.image_file import decode_colours, decode_image, resized
from ensemble_tune.ensemble.image_spec import RGB, ImageSpec
from ensemble_tune.ensemble.pixels import read_pixels, usable
from ensemble_tune.errors import DataError

RNG = np.random.default_rng(0)
HEIGHT, WIDTH = 10, 14


def kind(channels: int, bits: int = 8) -> ImageSpec:
    return ImageSpec.read({"channels": channels, "bits": bits})


def pixels(channels: int, bits: int = 8) -> np.ndarray:
    return RNG.integers(0, 2**bits, (HEIGHT, WIDTH, channels), np.uint16).astype(np.uint8 if bits == 8 else np.uint16)


@pytest.mark.parametrize(("channels", "bits"), [(1, 8), (1, 16), (3, 16), (4, 8), (4, 16)])
def test_png_keeps_channels_bits_and_their_order(tmp_path: Path, channels: int, bits: int) -> None:
    image = pixels(channels, bits)
    blue_first = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
    cv2.imwrite(str(tmp_path / "a.png"), image[..., blue_first])
    read = read_pixels(kind(channels, bits), tmp_path / "a.png")
    assert read.dtype == image.dtype and np.array_equal(read, image)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize(("channels", "bits"), [(1, 8), (1, 16), (2, 16), (5, 8), (13, 16), (3, 8)])
def test_tiff_keeps_channels_and_bits(
    tmp_path: Path, channels: int, bits: int, compression: str | None, planar: str
) -> None:
    image = pixels(channels, bits)
    rows = image[..., 0] if channels == 1 else image if planar == "contig" else np.moveaxis(image, 2, 0)
    how = {} if channels == 1 else {"planarconfig": planar, "photometric": "minisblack"}
    tifffile.imwrite(tmp_path / "a.tif", rows, compression=compression, **how)
    read = read_pixels(kind(channels, bits), tmp_path / "a.tif")
    assert read.dtype == image.dtype and np.array_equal(read, image)


@pytest.mark.parametrize("contiguous", [True, False])
def test_pages_of_a_tiff_are_bands(tmp_path: Path, contiguous: bool) -> None:
    image = pixels(4, 16)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for band in range(4):
            file.write(image[..., band], photometric="minisblack", contiguous=contiguous)
        file.write(image[::2, ::2, 0], photometric="minisblack", subfiletype=1)  # a preview
    assert np.array_equal(read_pixels(kind(4, 16), tmp_path / "a.tif"), image)
    with pytest.raises(DataError, match="holds 4 channels of 16 bits, not 1 of 16"):
        read_pixels(kind(1, 16), tmp_path / "a.tif")


@pytest.mark.parametrize("size", [(5, 7), (9, 5), (25, 20)])
@pytest.mark.parametrize(("channels", "bits"), [(1, 8), (3, 8), (5, 16), (13, 8)])
def test_any_number_of_channels_is_resized_each_as_if_alone(channels: int, bits: int, size: tuple[int, int]) -> None:
    image = pixels(channels, bits)
    scaled = resized(image, size)
    assert scaled.shape == (*size, channels) and scaled.dtype == image.dtype
    for channel in range(channels):
        assert np.array_equal(scaled[..., [channel]], resized(image[..., [channel]], size))


def test_a_picture_may_be_a_tiff_and_grey_becomes_one(tmp_path: Path) -> None:
    image = pixels(3)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb")
    tifffile.imwrite(tmp_path / "b.tif", image[..., 0])
    assert np.array_equal(read_pixels(RGB, tmp_path / "a.tif"), image)
    assert np.array_equal(read_pixels(RGB, tmp_path / "b.tif"), np.repeat(image[..., :1], 3, axis=2))


def test_a_picture_is_read_as_it_always_was(tmp_path: Path) -> None:
    for name, image in (("a.png", pixels(3)), ("b.jpg", pixels(3)), ("c.png", pixels(4)), ("d.png", pixels(1))):
        cv2.imwrite(str(tmp_path / name), image)
        read = read_pixels(RGB, tmp_path / name)
        assert np.array_equal(read, decode_image(tmp_path / name, (tmp_path / name).read_bytes()))
        assert read.shape == (HEIGHT, WIDTH, 3) and read.dtype == np.uint8


def test_a_jpeg_is_turned_as_its_camera_says_whatever_its_channels(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(0, 240, 15, dtype=np.uint8), (8, 1))
    data = cv2.imencode(".jpg", ramp)[1].tobytes()
    # Orientation 6: the camera was turned, and a viewer turns the picture by 90 degrees.
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    (tmp_path / "a.jpg").write_bytes(data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:])
    grey, picture = read_pixels(kind(1), tmp_path / "a.jpg"), read_pixels(RGB, tmp_path / "a.jpg")
    assert grey.shape == (16, 8, 1) and picture.shape == (16, 8, 3)
    assert (np.diff(grey[..., 0].mean(1)) > 0).all()


def test_a_png_is_never_turned_since_its_mask_could_not_be(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(0, 240, 15, dtype=np.uint8), (8, 1))
    data = cv2.imencode(".png", ramp)[1].tobytes()
    exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    chunk = len(exif).to_bytes(4, "big") + b"eXIf" + exif + zlib.crc32(b"eXIf" + exif).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(data[:33] + chunk + data[33:])
    for spec in (RGB, kind(1)):
        assert (read_pixels(spec, tmp_path / "a.png")[..., 0] == ramp).all()
    assert decode_colours(tmp_path / "a.png", (tmp_path / "a.png").read_bytes()).shape == (8, 16, 3)


def test_a_picture_of_16_bits_is_refused_since_half_of_them_would_be_lost(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), pixels(1, 16))
    with pytest.raises(DataError, match=r"holds 16 bits a channel, of which a picture has 8; say channels and bits"):
        read_pixels(RGB, tmp_path / "a.png")


@pytest.mark.parametrize(
    ("spec", "image", "message"),
    [
        (kind(4), pixels(3), "holds 3 channels of 8 bits, not 4 of 8"),
        (kind(3, 16), pixels(3), "holds 3 channels of 8 bits, not 3 of 16"),
        (kind(1), pixels(1, 16), "holds 1 channels of 16 bits, not 1 of 8"),
    ],
)
def test_an_image_of_other_channels_or_bits_is_refused(
    tmp_path: Path, spec: ImageSpec, image: np.ndarray, message: str
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), image)
    with pytest.raises(DataError, match=message):
        read_pixels(spec, tmp_path / "a.png")


def test_a_tiff_that_holds_no_pixels_of_an_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((HEIGHT, WIDTH), np.float32))
    with pytest.raises(DataError, match=r"32 bits \(numbers with a sign or a point, no pixels\), not 1 of 16"):
        read_pixels(kind(1, 16), path)
    tifffile.imwrite(path, np.zeros((2, 3, HEIGHT, WIDTH, 3), np.uint8), photometric="rgb")
    with pytest.raises(DataError, match="holds more than one image: its axes are"):
        read_pixels(kind(3), path)


@pytest.mark.parametrize("side", ["ImageWidth", "ImageLength"])
def test_a_tiff_without_pixels_is_refused(tmp_path: Path, side: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((HEIGHT, WIDTH), np.uint16), photometric="minisblack", metadata=None)
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags[side].overwrite(0)  # type: ignore[union-attr]
    with pytest.raises(DataError, match=r"a\.tif holds no pixel$"):
        read_pixels(kind(1, 16), path)


@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.99])
def test_a_truncated_tiff_is_refused_in_one_line(tmp_path: Path, compression: str | None, share: float) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels(5, 16), compression=compression, photometric="minisblack", planarconfig="contig")
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DataError, match=r"a\.tif is ") as caught:
        read_pixels(kind(5, 16), path)
    assert "\n" not in str(caught.value)


def test_tiff_files_count_where_there_are_no_others() -> None:
    names = ["a.tif", "b.TIFF", ".c.tif", "notes.txt"]
    assert [path.name for path in usable(map(Path, names))] == ["a.tif", "b.TIFF"]
    assert [path.name for path in usable(map(Path, [*names, "d.JPG"]))] == ["d.JPG"]


@pytest.mark.parametrize("colours", ["miniswhite", "palette"])
def test_numbers_that_stand_for_other_colours_are_no_brightness(tmp_path: Path, colours: str) -> None:
    how = {"colormap": np.zeros((3, 256), np.uint16)} if colours == "palette" else {"photometric": colours}
    tifffile.imwrite(tmp_path / "a.tif", pixels(1)[..., 0], **how)
    for wanted in (RGB, kind(1, 8)):
        with pytest.raises(DataError, match=f"must hold brightness, .* holds {colours.upper()}; write it with"):
            read_pixels(wanted, tmp_path / "a.tif")

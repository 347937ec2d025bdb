"""Reading one picture or mask, strictly: a decoder that fills in what a broken file lacks is no use for training."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import TypeAlias, TypeVar, cast

import cv2
import numpy as np
import numpy.typing as npt

from ensemble_tune.errors import DataError

Pixels: TypeAlias = npt.NDArray[np.uint8]
Deep: TypeAlias = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
"""Pixels of 8 or 16 bits."""
D = TypeVar("D", Pixels, Deep)

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
"""The endings of files that are read as images, in lower case."""

_TOGETHER = 4
"""Channels that OpenCV resizes at once."""
_PNG = b"\x89PNG\r\n\x1a\n"
_GREY = 0
"""PNG's colour type of one channel without a palette."""


def read_image(path: Path) -> Pixels:
    """A picture as (H, W, 3) uint8 RGB. Raises DataError where it is missing, broken or truncated."""
    return decode_image(path, read_bytes(path))


def read_mask(path: Path) -> Pixels:
    """A mask's labels as they stand in the file, (H, W) uint8. Raises DataError where it is broken or no such mask."""
    return decode_mask(path, read_bytes(path))


def resized(image: D, size: tuple[int, int]) -> D:
    """An image (H, W, C) at another height and width in pixels: averaged where it shrinks, else interpolated."""
    shrinks = image.shape[0] >= size[0] and image.shape[1] >= size[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    parts = [image[..., start : start + _TOGETHER] for start in range(0, image.shape[2], _TOGETHER)]
    # OpenCV drops an axis of one channel.
    scaled = [cv2.resize(part, size[::-1], interpolation=how).reshape(*size, part.shape[2]) for part in parts]
    return cast(D, scaled[0] if len(scaled) == 1 else np.concatenate(scaled, axis=2))


def mask_shape(path: Path) -> tuple[int, int]:
    """Height and width in pixels of a PNG file, from its first bytes. Raises DataError."""
    try:
        with path.open("rb") as file:
            head = file.read(24)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    if len(head) < 24 or not head.startswith(_PNG):
        raise DataError(f"{path} is not a PNG file")
    width, height = struct.unpack(">II", head[16:24])
    return height, width


def decode_image(path: Path, data: bytes) -> Pixels:
    """`read_image` for a file's bytes; `path` is for the error."""
    return cast(Pixels, cv2.cvtColor(decode(path, data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB))


def decode_mask(path: Path, data: bytes) -> Pixels:
    """`read_mask` for a file's bytes; `path` is for the error.

    A palette or a colour mask is refused: a decoder would turn its colours into grey values that look like labels.
    """
    pixels = decode(path, data, cv2.IMREAD_UNCHANGED)
    if not data.startswith(_PNG):
        raise DataError(f"{path} is not a PNG file")
    depth, colour = data[24], data[25]
    if (depth, colour) != (8, _GREY):
        kind = {0: "grey", 2: "colour", 3: "palette", 4: "grey with alpha", 6: "colour with alpha"}.get(
            colour, "unknown"
        )
        raise DataError(f"{path} holds {kind} pixels of {depth} bits, not one channel of 8 bits")
    return cast(Pixels, pixels)


def decode_colours(path: Path, data: bytes) -> Pixels:
    """The colours of a mask, (H, W, 3) uint8 RGB, from a PNG file's bytes; `path` is for the error.

    Colour, a palette, and grey of 1 to 8 bits will do, which 1 bit spreads to 0 and 255; what is transparent is looked
    at as if it were not.
    """
    pixels = decode(path, data, cv2.IMREAD_COLOR)
    if not data.startswith(_PNG):
        raise DataError(f"{path} is not a PNG file")
    if data[24] > 8:
        raise DataError(f"{path} holds pixels of {data[24]} bits, not of 8 at most")
    return cast(Pixels, cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))


def png_bits(data: bytes) -> int:
    """Bits a channel of a PNG file; 0 where it is none."""
    return data[24] if data.startswith(_PNG) and len(data) > 24 else 0


def read_bytes(path: Path) -> bytes:
    """A file's content. Raises DataError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def decode(path: Path, data: bytes, flags: int) -> Deep:
    """What OpenCV makes of a whole PNG or JPEG file's bytes: (H, W) or (H, W, C), blue first. Raises DataError."""
    _refuse_truncated(path, data)
    if data.startswith(_PNG):  # masks have no orientation, so pictures that masks lie on must not be turned either
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    # Decoding bytes rather than naming the file: OpenCV cannot open every path that Python can.
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise DataError(f"{path} is no readable image")
    return cast(Deep, pixels)


def _refuse_truncated(path: Path, data: bytes) -> None:
    """OpenCV returns a broken file's remaining pixels with no more than a warning, so the bytes are checked first."""
    if data.startswith(_PNG):
        whole = _png_is_whole(data)
    elif data.startswith(b"\xff\xd8"):
        # End-of-image after the last start-of-scan; a thumbnail's own end-of-image comes before that.
        whole = data.find(b"\xff\xd9", data.rfind(b"\xff\xda")) >= 0
    else:
        raise DataError(f"{path} is neither a PNG nor a JPEG file")
    if not whole:
        raise DataError(f"{path} is truncated or corrupt")


def _png_is_whole(data: bytes) -> bool:
    """Whether every chunk up to IEND is there and matches its checksum."""
    start = len(_PNG)
    while start + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, start)
        end = start + 12 + length
        if end > len(data) or zlib.crc32(data[start + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            return False
        if data[start + 4 : start + 8] == b"IEND":
            return True
        start = end
    return False

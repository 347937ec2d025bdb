"""Reading an image as a data set means it: pictures, grey or 16-bit images, and images of many channels."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import tifffile

from ensemble_tune.ensemble.image_file import IMAGE_SUFFIXES, Deep, decode, decode_image, png_bits, read_bytes
from ensemble_tune.ensemble.image_spec import ImageSpec
from ensemble_tune.errors import DataError

TIFF_SUFFIXES = (".tif", ".tiff")
FILE_SUFFIXES = (*IMAGE_SUFFIXES, *TIFF_SUFFIXES)
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ENCODED = ("MINISWHITE", "PALETTE", "CIELAB", "ICCLAB", "ITULAB")
"""Colours that a TIFF's numbers are not, but stand for: negatives, places in a palette, another space."""
_CHANNELS_FIRST = ("SYX", "CYX", "QYX", "IYX", "ZYX")
"""tifffile's words for bands one after another, and for pages that are bands."""


def read_pixels(spec: ImageSpec, path: Path) -> Deep:
    """An image (H, W, C) of the spec's channels and bits. Raises DataError where it is broken, or not of those."""
    return decode_pixels(spec, path, read_bytes(path))


def decode_pixels(spec: ImageSpec, path: Path, data: bytes) -> Deep:
    """`read_pixels` for a file's bytes; `path` is for the error.

    Where pictures are meant, any PNG or JPEG of 8 bits is turned into one; else channels and bits must be those of the
    spec.
    """
    if data.startswith(_TIFF):
        pixels = _decode_tiff(path, data)
        if spec.plain and pixels.dtype == np.uint8 and pixels.shape[2] == 1:
            pixels = cast(Deep, np.repeat(pixels, 3, axis=2))
    elif spec.plain:
        if png_bits(data) > 8:
            raise DataError(
                f"{path} holds {png_bits(data)} bits a channel, of which a picture has 8; say channels and bits under "
                "[images] in dataset.toml, or write 8 bits"
            )
        return decode_image(path, data)
    else:
        pixels = _decode_any(path, data)
    if not pixels.size:
        raise DataError(f"{path} holds no pixel")
    if pixels.shape[2] != spec.channels or pixels.dtype != spec.dtype:
        bits = 8 * pixels.dtype.itemsize
        kind = "" if pixels.dtype.kind == "u" else "numbers with a sign or a point, "
        raise DataError(
            f"{path} holds {pixels.shape[2]} channels of {bits} bits{f' ({kind}no pixels)' if kind else ''}, not "
            f"{spec.channels} of {spec.bits}"
        )
    return pixels


def is_image(path: Path) -> bool:
    """Whether a file's name is that of an image, and it is not hidden."""
    return path.suffix.lower() in FILE_SUFFIXES and not path.name.startswith(".")


def usable(files: Iterable[Path]) -> list[Path]:
    """The images among files, in their order: PNG and JPEG, or TIFF where there is neither; none that is hidden."""
    found = [path for path in files if is_image(path)]
    pictures = [path for path in found if path.suffix.lower() in IMAGE_SUFFIXES]
    return pictures or found


def _decode_any(path: Path, data: bytes) -> Deep:
    """A PNG or JPEG with the channels and bits that it has."""
    # A JPEG is turned as its camera says, as pictures are; of a PNG alpha is a channel like any other.
    jpeg = data.startswith(b"\xff\xd8")
    pixels = decode(path, data, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH if jpeg else cv2.IMREAD_UNCHANGED)
    if pixels.ndim == 2:
        return pixels[..., None]
    turned = {3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}[pixels.shape[2]]
    return cast(Deep, cv2.cvtColor(pixels, turned))


def _decode_tiff(path: Path, data: bytes) -> Deep:
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            first = file.series[0]
            # Pages that were written one by one count as images of their own; smaller ones are previews.
            pages = [each for each in file.series if (each.axes, each.shape, each.dtype) == ("YX", *_kind(first))]
            axes, colours = first.axes, tifffile.PHOTOMETRIC(first.keyframe.photometric).name
            pixels = np.stack([page.asarray() for page in pages], axis=2) if axes == "YX" else first.asarray()
    except Exception as error:  # tifffile raises whatever a broken file leads to
        raise DataError(
            f"{path} is no readable TIFF file: {' '.join(str(error).split()) or type(error).__name__}"
        ) from error
    if colours in _ENCODED:
        raise DataError(
            f"{path} must hold brightness, or red, green and blue, but holds {colours}; write it with black as 0, or "
            "as RGB"
        )
    if axes in _CHANNELS_FIRST:
        pixels = np.moveaxis(pixels, 0, 2)
    elif axes not in ("YX", "YXS"):
        raise DataError(f"{path} holds more than one image: its axes are {axes}; write height, width and channels")
    return cast(Deep, np.ascontiguousarray(pixels))


def _kind(series: tifffile.TiffPageSeries) -> tuple[object, object]:
    return series.shape, series.dtype

"""Reading one radiograph file as grey values in [0, 1]."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

#: Pillow's modes for more than 8 bits a pixel -> the value that is white
_DEEP = {"I;16": 65535.0, "I;16L": 65535.0, "I;16B": 65535.0, "I": 65535.0}


def read_grey(file: Path, size: int | None) -> np.ndarray:
    """Read a picture.

    Args:
        file: PNG or JPEG, 8 or 16 bit; colour becomes grey (ITU-R 601 luma), transparency is dropped.
        size: pixels a side to resample to, by area-weighted (antialiased) bilinear filtering; other shapes than square
            are padded with black first, so that nothing at the border is lost and nothing is stretched. ``None`` keeps
            the picture as it is.

    Returns:
        ``(h, w)`` float32 in [0, 1].

    Raises:
        ValueError: the file is missing or cannot be decoded; the message says which.
    """
    if not file.is_file():
        raise ValueError("no such file")
    try:
        with Image.open(file) as opened:
            picture = ImageOps.exif_transpose(opened)
            white = _DEEP.get(picture.mode, 255.0)
            grey = np.asarray(picture if picture.mode in _DEEP else picture.convert("L"), dtype=np.float32) / white
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        raise ValueError(f"cannot be decoded ({error})") from error
    if size is not None and grey.shape != (size, size):
        side = max(grey.shape)
        spare = [side - length for length in grey.shape]
        square = np.pad(grey, [(n // 2, n - n // 2) for n in spare])
        grey = np.asarray(Image.fromarray(square).resize((size, size), Image.Resampling.BILINEAR))
    return np.clip(grey, 0.0, 1.0, dtype=np.float32)

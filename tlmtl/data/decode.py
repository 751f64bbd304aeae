"""One image file to pixels: upright, 8 bits, grey or RGB, whatever the file holds. Torch-free until a JPEG is read."""

import os
import stat
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

# What is read; Pillow knows others, some of which start programs of their own (EPS).
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
SUFFIXES = {
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".webp", ".bmp", ".gif",
    ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif",
}  # fmt: skip
ORIENTATION = 0x0112  # the EXIF tag


def decode(path: str | Path, channels: int | None = None) -> np.ndarray:
    """The file as uint8 (C, H, W); see `pixels`. Raises OSError, naming the reason, for what is no whole image."""
    return pixels(opened(path), channels)


def decode_fast(path: str, channels: int) -> np.ndarray:
    """What `decode` gives. A plain JPEG file is left to torchvision's decoder: the same pixels (of the same library), but
    without Python's lock, so that threads do not wait for each other."""
    import torch
    from PIL import Image
    from torchvision.io import ImageReadMode, decode_jpeg

    try:
        _check_regular(path)
        with Image.open(path, formats=["JPEG"]) as image:  # reads the head of the file
            upright = image.getexif().get(ORIENTATION, 1) in (0, 1)
            plain = upright and image.mode == {1: "L", 3: "RGB"}[channels]
            many = image.width * image.height > (Image.MAX_IMAGE_PIXELS or 0)
        if plain and not many:
            raw = torch.from_numpy(np.fromfile(path, dtype=np.uint8))
            return decode_jpeg(raw, mode=ImageReadMode.GRAY if channels == 1 else ImageReadMode.RGB).numpy()
    except Exception:  # no JPEG file, or a broken one: Pillow says what is wrong
        pass
    return decode(path, channels)


def opened(path: str | Path) -> Any:
    """The file as a PIL image, loaded. Raises OSError for what is no whole image or unreasonably large."""
    from PIL import Image, UnidentifiedImageError

    try:
        _check_regular(path)
        with Image.open(path, formats=_formats()) as image:
            image.load()
            return image
    except UnidentifiedImageError as error:
        raise OSError("no image of a known format" if os.path.getsize(path) else "an empty file") from error
    except Image.DecompressionBombError as error:
        raise OSError(f"refused as too large: {error}") from error
    except OSError as error:
        raise OSError(error.strerror or str(error).replace(str(path), Path(path).name)) from error
    except Exception as error:  # a broken file can end in anything, deep in a decoder
        raise OSError(f"{type(error).__name__}: {error}") from error


def _check_regular(path: str | Path) -> None:
    """Raises OSError for a pipe and its like: reading one could wait for ever, and takes what is in it away."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # of a folder, opening tells
        raise OSError("no ordinary file")


@lru_cache(maxsize=1)
def _formats() -> list[str]:
    from PIL import Image

    # told at half the size at which Pillow refuses: large scans are meant to be read
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]  # some can be left out when Pillow is built


def pixels(image: Any, channels: int | None = None) -> np.ndarray:
    """A PIL image as uint8 (C, H, W), upright (EXIF), 16-bit grey scaled to 8 bits, transparency over white.

    `channels` is 1, 3, or None for what the image holds. Colour comes as a view of (H, W, C). Raises OSError for floating
    point, whose range nobody states, and for LAB.
    """
    from PIL import Image, ImageOps

    mode = image.mode
    if image.getexif().get(ORIENTATION, 1) not in (0, 1):  # otherwise it would be a copy, as `convert` would below
        image = ImageOps.exif_transpose(image)
    if mode == "F":
        raise OSError("32-bit floating point, whose range is not known: save it with 8 or 16 bits")
    if mode in ("LAB", "HSV"):
        raise OSError(f"colours in {mode}, which cannot be read as RGB and grey alike: save it as RGB")
    if mode.startswith("I"):  # 16 and 32 bits hold 16-bit scans
        image = Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) // 257).astype(np.uint8))
    if mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    grey = mode in ("L", "1", "LA", "La") or mode.startswith("I")
    wanted = channels or (1 if grey else 3)
    mode = "L" if wanted == 1 else "RGB"
    array = np.array(image if image.mode == mode else image.convert(mode))
    return array[None] if wanted == 1 else array.transpose(2, 0, 1)

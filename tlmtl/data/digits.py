"""`dataset=digits`: the 1,797 scanned digits of scikit-learn, 8x8 (Alpaydin & Kaynak 1998). The embedded target."""

import numpy as np

from tlmtl.data.examples import Examples
from tlmtl.data.images import ArrayImages
from tlmtl.errors import folder_of_package

NAMES = [str(digit) for digit in range(10)]


def scans() -> tuple[np.ndarray, np.ndarray]:
    """uint8 (1797, 8, 8), scaled from 0..16 to 0..255, and the digits (1797,).

    Read from the wheel's own gzipped CSV: importing scikit-learn for it takes as long as importing torch.
    """
    place = folder_of_package("sklearn", "dataset=digits") / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(place, delimiter=",")
    return (table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8), table[:, -1].astype(np.int64)


def digits() -> Examples:
    """Tasks `digit` and `parity` (classification) and `ink` (mean intensity, 0 to 1)."""
    images, digit = scans()
    return Examples(
        images=ArrayImages(images[:, None]),
        columns={"digit": digit, "parity": digit % 2, "ink": images.mean((1, 2)) / 255},
        classes={"digit": NAMES, "parity": ["even", "odd"]},
        ids=[str(i) for i in range(len(digit))],
    )

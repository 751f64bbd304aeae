"""`dataset=elpv`: 2,624 photographs of solar cells that glow under a current, with how likely each is defective.

300x300, grey, cut from 44 modules and freed of distortion (Deitsch et al. 2019, 2021; Buerhop et al. 2018). They are files
of the package `elpv-dataset`, read from where it is installed: its own loader takes all into memory, and seconds.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from tlmtl.data.examples import Examples
from tlmtl.data.scan import images_of, readable, scan
from tlmtl.errors import ConfigError

CELLS = {"mono": "monocrystalline", "poly": "polycrystalline"}


def elpv(*, cache: Path | None = None) -> Examples:
    """Tasks `defect` (functional, defective: a probability above 0.5), `severity` (the probability: 0, 1/3, 2/3 or 1, from
    an expert's answers to two questions) and `cell` (mono- or polycrystalline).

    Raises ConfigError where the package is not installed, or its files are not as they should be.
    """
    top = _folder()
    rows = [line.split() for line in _table(top / "labels.csv")]
    probability = np.array([float(row[1]) for row in rows])
    paths = [str(top / row[0]) for row in rows]
    facts = scan(paths, cache)
    good, _ = readable(facts, paths, "error")
    return Examples(
        images=images_of(paths, facts, good),
        columns={
            "defect": (probability > 0.5).astype(np.int64),
            "severity": probability,
            "cell": np.array([list(CELLS).index(row[2]) for row in rows], dtype=np.int64),
        },
        classes={"defect": ["functional", "defective"], "cell": list(CELLS.values())},
        ids=[Path(row[0]).name for row in rows],
    )


def _folder() -> Path:
    """Where the package keeps its data, found without importing it."""
    spec = find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise ConfigError(
            "dataset=elpv reads the photographs in the package 'elpv-dataset' (91 MB), which is not installed: "
            "pip install 'tlmtl[elpv]'."
        )
    return Path(spec.origin).parent / "data"


def _table(path: Path) -> list[str]:
    """A line for each photograph: file, probability, cell."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(
            f"The package 'elpv-dataset' should bring {path}: {error.strerror}. Install it again: "
            "pip install --force-reinstall --no-deps elpv-dataset."
        ) from error
    return [line for line in lines if line.strip()]

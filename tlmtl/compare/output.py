"""Files that are either whole or not there: written to a temporary name in the same folder, then renamed."""

import contextlib
import os
from pathlib import Path

from tlmtl.errors import ConfigError


def write(path: Path, content: bytes) -> None:
    """Raises ConfigError when `path` can't be written; what stood there before stays then."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise ConfigError(
            f"Expected a file that can be written, found {path}: {error.strerror}. "
            f"Choose another, or make its folder first."
        ) from error

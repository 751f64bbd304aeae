"""Where a table or a figure goes: a file that is whole or not there."""

from pathlib import Path

from tlmtl import files
from tlmtl.errors import ConfigError


def write(path: Path, content: bytes) -> None:
    """Raises ConfigError when `path` can't be written; what stood there before stays then."""
    try:
        files.write(path, lambda temporary: temporary.write_bytes(content))
    except OSError as error:
        raise ConfigError(
            f"Expected a file that can be written, found {path}: {error.strerror}. "
            f"Choose another, or make its folder first."
        ) from error

"""From what the command line names to image files: files, folders, tables, `-` for names on standard input. Torch-free."""

import io
import os
import sys
from pathlib import Path

from tlmtl.data import tabular
from tlmtl.data.decode import SUFFIXES
from tlmtl.errors import ConfigError

TABLES = (".csv", ".tsv", ".parquet", ".pq")
Named = tuple[str, str]  # what an image is called in the output, where it lies


def gather(
    words: list[str], image: str | None = None, delimiter: str | None = None, encoding: str = "utf-8"
) -> tuple[list[Named], list[str]]:
    """The images that `words` stand for, in their order, and notes on what was passed over.

    Arguments:
        words: image files, folders (with all that is below them), CSV or Parquet files, or "-".
        image: the column of a table that names the files; found when None.
        delimiter, encoding: of a CSV file, as `tabular.read` takes them.

    Raises ConfigError for a word that is not there, and when no image is left.
    """
    found: list[Named] = []
    notes: list[str] = []
    for word in words:
        path = Path(word).expanduser()
        if word == "-":
            if isinstance(sys.stdin, io.TextIOWrapper):
                sys.stdin.reconfigure(errors="surrogateescape")  # names of files need not be UTF-8
            lines = [line.rstrip("\r\n") for line in sys.stdin]
            found += [(line, line) for line in lines if line.strip()]
        elif path.is_dir():
            inside, others = _below(path)
            found += inside
            if others:
                notes.append(f"{others} file(s) in {word} do not have the name of an image and were passed over.")
        elif path.suffix.lower() in TABLES and path.is_file():
            table = tabular.read(str(path), delimiter, encoding, "--{}")
            column = tabular.image_column(table, image, "--image")
            found += [(cell, str(path.parent / cell)) for cell in table[column]]
        elif path.exists():
            found.append((word, str(path)))
        else:
            raise ConfigError(f"Expected an image, a folder, a CSV file or -, found nothing at {word}.")
    if not found:
        raise ConfigError(f"Found no image at {', '.join(words)}. Images end in {', '.join(sorted(SUFFIXES))}.")
    return found, notes


def _below(top: Path) -> tuple[list[Named], int]:
    """Image files below a folder, by name, and how many others there are. Links are followed, each folder once."""
    found: list[Named] = []
    others, seen = 0, set()
    for folder, inner, names in os.walk(top, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:  # a link to a folder above it
            inner.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for name in sorted(names):
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                found.append((str(Path(folder) / name),) * 2)
            else:
                others += not name.startswith(".")
    return found, others

"""Save and restore everything that a step depends on. Written by rename; sealed with a checksum; read as data, never
unpickled."""

import hashlib
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tlmtl import files
from tlmtl.errors import TlmtlError

SEAL = 64  # bytes of a SHA-256 in hexadecimal digits


class BrokenError(TlmtlError):
    """A checkpoint that is not what was written."""


def save(path: Path, state: dict[str, Any]) -> None:
    """`state` (tensors, numbers, strings, lists, dicts of them) and the random states, in one file."""
    content = {"state": state, "random": random_state()}

    def fill(temporary: Path) -> None:
        torch.save(content, temporary)
        _seal(temporary)

    files.write(path, fill)


def load(path: Path) -> dict[str, Any]:
    """The state in `path`, with the random states put back. Raises BrokenError when it is not as it was written."""
    try:
        if not _sealed(path):
            raise BrokenError("its checksum is wrong: it was changed or cut short")
        content = torch.load(path, map_location="cpu", weights_only=True)
        state, found = content["state"], content["random"]
    except (BrokenError, MemoryError, torch.OutOfMemoryError):
        raise
    except OSError as error:
        raise BrokenError(error.strerror or str(error)) from error
    except Exception as error:  # torch raises a dozen kinds for a file that it cannot read; all mean the same
        raise BrokenError(str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    set_random_state(found)
    return state


def _seal(path: Path) -> None:
    """Append the checksum of all that stands before it, as the zip archive's comment: any reader of torch's files reads
    on, and ignores it."""
    with path.open("r+b") as file:
        file.seek(-2, 2)
        file.write(struct.pack("<H", SEAL))  # the length of the comment ends an archive that has none
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0, 2)
        file.write(digest.encode())


def _sealed(path: Path) -> bool:
    """Whether the checksum is there and right."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        left = path.stat().st_size - SEAL
        while left > 0 and (piece := file.read(min(left, 2**20))):
            found.update(piece)
            left -= len(piece)
        return file.read().decode("ascii", "replace") == found.hexdigest()


def random_state() -> dict[str, Any]:
    name, keys, position, has_gauss, cached = np.random.get_state()
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [
            str(name),
            torch.from_numpy(np.asarray(keys, np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "python": [version, list(internal), gauss],
    }


def set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)

"""Save and restore everything that a step depends on. Written by rename; read as data, never unpickled."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tlmtl import files


def save(path: Path, state: dict[str, Any]) -> None:
    """`state` (tensors, numbers, strings, lists, dicts of them) and the random states, in one file."""
    content = {"state": state, "random": random_state()}
    files.write(path, lambda temporary: torch.save(content, temporary))


def load(path: Path) -> dict[str, Any] | None:
    """The state in `path` with the random states put back, or None when there is no whole checkpoint."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        state, found = content["state"], content["random"]
    except FileNotFoundError:
        return None
    except Exception:  # torch raises a dozen kinds for a broken file; all mean the same
        return None
    set_random_state(found)
    return state


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

"""What a finished run left in its folder, read: its record and its model."""

import json
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from tlmtl.errors import ConfigError
from tlmtl.models.digest import hash_state
from tlmtl.preprocess import Preprocess

BACKBONES = "backbones"  # the folder of a sweep with the backbones that several of its runs have in common

MADE_AGAIN = "The sweep's command with sweep.rerun=all makes it again."


def read_record(folder: Path, where: str = "source.path", use: str = "a source") -> dict[str, Any]:
    """A finished run's `run.json`. Raises ConfigError for anything else, naming the key `where` and the `use` made of it."""
    path = folder / "run.json"
    if not path.is_file():
        found = sorted(one.parent.name for one in folder.glob("*/run.json"))
        if found:
            raise ConfigError(
                f"{folder} holds {len(found)} runs, and one is wanted ({where}): choose one of them, such as "
                f"{folder / found[0]}."
            )
        raise ConfigError(f"Expected the folder of a run, found no run.json in {folder} ({where}).")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        status = record["status"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is broken: {error}. Choose another run ({where}).") from error
    if status != "done":
        raise ConfigError(f"The run in {folder} is not finished (status {status}): {use} should be ({where}).")
    return record


def read_model(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and description of a run's `model.safetensors`. Raises ConfigError when it is missing or broken."""
    from safetensors import SafetensorError, safe_open

    path = folder / "model.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            meta = json.loads(file.metadata()["tlmtl"])
            meta["preprocess"] = Preprocess.from_dict(meta["preprocess"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except FileNotFoundError as error:
        raise ConfigError(f"Expected a model in {folder}, found no model.safetensors.") from error
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise ConfigError(f"{path} is broken: {error}. Choose another run, or train that one again.") from error
    if (shared := meta.pop("backbone", None)) is not None:
        tensors.update(_in_common(folder, str(shared)))
    return tensors, meta


def backbone_path(sweep: Path, wanted: str) -> Path:
    """Where a sweep keeps the backbone of that hash."""
    return sweep / BACKBONES / f"{wanted}.safetensors"


def holds(path: Path, wanted: str) -> bool:
    """Whether a file holds the tensors of that hash."""
    try:
        return path.is_file() and hash_state(_load(path)) == wanted
    except ConfigError:
        return False


def _in_common(folder: Path, wanted: str) -> dict[str, Tensor]:
    """The backbone of a run that was trained together with others, which have it in one file: that of the sweep, or one in the
    run's own folder, where the two were moved together. Raises ConfigError when it is missing or not the one."""
    if not re.fullmatch("[0-9a-f]{12}", wanted):
        raise ConfigError(f"{folder / 'model.safetensors'} is broken: its backbone is called {wanted!r}.")
    places = [folder / f"{wanted}.safetensors", backbone_path(folder.resolve().parent, wanted)]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise ConfigError(
            f"The run in {folder} was trained together with others, which have one backbone: it is missing here. Expected "
            f"{places[1]}. Copy {BACKBONES}/{wanted}.safetensors of the run's sweep there, or into the run's own folder. "
            f"{MADE_AGAIN}"
        )
    found = _load(path)
    if hash_state(found) != wanted:
        raise ConfigError(f"{path} is broken: its content is not what its name says. {MADE_AGAIN}")
    return found


def _load(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ConfigError(f"{path} is broken: {error}. {MADE_AGAIN}") from error

"""What a file of parameters holds, as tensors by name. No code of a file is ever run, whatever it is called."""

import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tlmtl.errors import ConfigError, nearest
from tlmtl.models.source import CHOSEN, SEEN
from tlmtl.preprocess import Preprocess

NESTED = 3  # how many dicts deep tensors are looked for: {"model": {"state_dict": {...}}}


@dataclass
class WeightFile:
    """What was read.

    Arguments:
        groups: tensors by name, for each (nested) dict of the file that has any; its key is the dict's path
            ("", "state_dict.", "model.state_dict.").
        ordered: whether the tensors stand in the order in which the model that was saved has them.
        preprocess, seen: as in `Source`; only this program's own files say them.
    """

    groups: dict[str, dict[str, Tensor]]
    ordered: bool
    preprocess: Preprocess | None = None
    seen: np.ndarray | None = None


def read_weights(path: Path, where: str) -> WeightFile:
    """The tensors of a file of torch's or safetensors' format, told apart by content.

    Arguments:
        where: the config key that named the file, for messages.

    Raises ConfigError for whatever else there may be at `path`, and for a file that needs code to be run.
    """
    head = _head(path, where)
    is_torch = head.startswith((b"PK\x03\x04", b"\x80"))
    if not is_torch and head[8:9] != b"{":
        raise ConfigError(
            f"{path} is a file of neither torch nor safetensors: it begins with {head[:24]!r} ({where}). Expected "
            "parameters saved by torch.save(model.state_dict(), FILE) or safetensors.torch.save_file."
        )
    try:
        if head.startswith(b"PK"):
            _check_archive(path, where)
        found = _torch(path) if is_torch else _safetensors(path)
    except pickle.UnpicklingError as error:
        raise _refusal(path, where, str(error)) from error
    except ConfigError:
        raise
    except Exception as error:  # there is nothing that a broken file cannot raise
        reason = (str(error) or type(error).__name__).splitlines()[0].split(". In PyTorch")[0]
        raise ConfigError(
            f"{path} is broken, or no file of parameters: {reason} ({where}). Get it again, or save the state dict "
            "anew: torch.save(model.state_dict(), FILE)."
        ) from error
    if not found.groups:
        raise ConfigError(
            f"{path} holds no parameters ({where}). Expected a dict from names to tensors, as model.state_dict() is."
        )
    for group, tensors in found.groups.items():
        for name, tensor in tensors.items():
            _check_size(tensor, f"'{group}{name}' of {path}", where)
    return found


def _check_archive(path: Path, where: str) -> None:
    """Raises ConfigError for an archive that unpacks to more than it is: torch packs without compressing."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any(one.filename.endswith("/constants.pkl") for one in members):
        raise ConfigError(
            f"{path} is a TorchScript archive, which is code and no state dict, so it was not loaded ({where}). If you "
            "trust it, save its tensors where it was made: torch.save(torch.jit.load(FILE).state_dict(), OTHER)."
        )
    packed = [one.filename for one in members if one.compress_type != zipfile.ZIP_STORED]
    size, most = sum(one.file_size for one in members), path.stat().st_size
    if packed or size > most:
        what = f"is compressed ('{packed[0]}')" if packed else f"says that it holds {size} bytes, and has {most}"
        raise ConfigError(
            f"{path} {what}, so it was not loaded: it could fill the memory ({where}). Expected a file as torch.save "
            "writes it, which is not compressed. Save the state dict anew: torch.save(model.state_dict(), FILE)."
        )


def _check_size(tensor: Tensor, what: str, where: str) -> None:
    """Raises ConfigError for a tensor that shows the same few values again and again: a copy would fill the memory."""
    kept = tensor.untyped_storage().nbytes()
    if tensor.numel() * tensor.element_size() > kept:
        raise ConfigError(
            f"{what} has the shape {tuple(tensor.shape)}, of which the file holds {kept} bytes alone, so it was not loaded "
            f"({where}). Expected all values of each tensor. Save it anew with tensor.clone() for expanded ones."
        )


def _head(path: Path, where: str) -> bytes:
    try:
        if path.is_dir():
            raise ConfigError(
                f"'{where}' should be a file of parameters. Found the folder {path}. For the folder of a run: source=run "
                f"source.path={path}."
            )
        if not path.exists():
            beside = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
            raise ConfigError(f"There is no file {path} ({where}).{nearest(path.name, beside)}")
        if not path.is_file():  # reading a pipe would wait for ever
            raise ConfigError(f"{path} is no ordinary file ({where}).")
        with path.open("rb") as file:
            head = file.read(64)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{str(path)!r} cannot be read: {error} ({where}).") from error
    if not head:
        raise ConfigError(f"{path} is empty ({where}). Get it again.")
    return head


def _refusal(path: Path, where: str, said: str) -> ConfigError:
    """torch's own message would have the user switch its protection off."""
    found = re.search(r"GLOBAL ([\w.]+)", said)
    what = f"needs '{found[1]}', which is code and no tensor" if found else "is a pickle of something else than tensors"
    return ConfigError(
        f"{path} {what}, so it was not loaded: opening such a file can run anything ({where}). Expected tensors alone. "
        "If you trust it, load it where it was made and save its state dict: torch.save(model.state_dict(), FILE), or "
        "safetensors.torch.save_file."
    )


def _torch(path: Path) -> WeightFile:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickle protocols and archives: what does not load is told as an error
        found = torch.load(path, map_location="cpu", weights_only=True)
    return WeightFile(_groups(found) if isinstance(found, Mapping) else {}, ordered=True)


def _safetensors(path: Path) -> WeightFile:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        own = (file.metadata() or {}).get("tlmtl")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    tensors.pop(CHOSEN, None)
    told = json.loads(own) if own else {}
    if "backbone" in told:
        raise ConfigError(
            f"{path} holds a head alone: its run has a backbone in common with others of its sweep. Use source=run "
            f"source.path={path.parent}, or a whole model by `tlmtl export {path.parent}`."
        )
    seen = tensors.pop(SEEN).numpy() if own and SEEN in tensors else None
    preprocess = Preprocess.from_dict(told["preprocess"]) if own else None
    return WeightFile(_groups(tensors), False, preprocess, seen)


def _groups(found: Mapping[Any, Any], path: str = "", depth: int = NESTED) -> dict[str, dict[str, Tensor]]:
    tensors = {name: t.detach() for name, t in found.items() if isinstance(name, str) and _is_plain(t)}
    groups = {path: tensors} if tensors else {}
    for name, value in found.items():
        if depth and isinstance(name, str) and isinstance(value, Mapping):
            groups |= _groups(value, f"{path}{name}.", depth - 1)
    return groups


def _is_plain(value: Any) -> bool:
    """A tensor with values in memory that a parameter can be filled from."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not (value.is_quantized or value.is_complex())
    )

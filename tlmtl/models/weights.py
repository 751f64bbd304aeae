"""`source=file`: parameters from a file of anybody's, and how its names are brought to the backbone's own."""

from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from tlmtl.errors import ConfigError
from tlmtl.models.encoder import Encoder
from tlmtl.models.expected import changed
from tlmtl.models.source import Source, check_share
from tlmtl.models.weightfile import WeightFile, read_weights

KINDS = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}


def from_file(
    path: str,
    match: str = "name",
    prefix: str | None = None,
    preprocess: dict | None = None,
    min_loaded: float = 0.9,
    partial: bool = False,
    *,
    encoder: Encoder,
) -> Source:
    """`source=file`: parameters that torch.save or safetensors wrote: timm's, torchvision's, anyone's, or a run's
    `model.safetensors`. Code in a file is never run.

    Arguments:
        path: the file; the format is told by its content.
        match: `name`: the names are the backbone's, after a prefix such as `module.` that is found by what fits most.
            `order`: the names are others, but number, order and shapes of the tensors are the same.
        prefix: what the names begin with, nested dicts included (`state_dict.module.`), where it is not to be found.
        preprocess: what the parameters expect of an image, where it is not what the model says (`expected.changed`).
        min_loaded: share of the backbone's parameters, 0 to 1, below which loading is an error.
        partial: also copy the overlapping part of parameters whose shapes differ.

    Raises ConfigError for a file that is missing, broken, of another kind or not of tensors alone, and where none of
    its names fits the backbone.
    """
    check_share(min_loaded)
    try:
        file = Path(path).expanduser()
    except RuntimeError as error:  # ~somebody
        raise ConfigError(f"'source.path={path}' cannot be found: {error}") from error
    found = read_weights(file, "source.path")
    state, how = fitted(found, encoder, match, prefix, str(file))
    expects = changed(found.preprocess or encoder.preprocess, preprocess) if preprocess else found.preprocess
    return Source(state, expects, found.seen, None, min_loaded, partial, f"file {file.name}{how}")


def fitted(
    found: WeightFile, encoder: Encoder, match: str, prefix: str | None, path: str
) -> tuple[dict[str, Tensor], str]:
    """The file's tensors by the backbone's names and in its types, and what was done for it, in words.

    Tensors of the file that the backbone has not (a classifier, say) keep their names.
    """
    own = encoder.module.state_dict()
    if match not in ("name", "order"):
        raise ConfigError(f"'source.match' should be name or order. Found '{match}'.")
    state, how = _by_name(found, own, prefix, path) if match == "name" else _by_order(found, own, path)
    for name in own.keys() & state.keys():
        if state[name].ndim != own[name].ndim:
            continue  # no part of it fits: `load_into` says so
        state[name] = state[name].to(own[name].dtype)
        if not torch.isfinite(state[name]).all():
            raise ConfigError(f"'{name}' of {path} holds values that are not finite: it is of a training that failed.")
    return state, how


def _by_name(found: WeightFile, own: dict[str, Tensor], prefix: str | None, path: str) -> tuple[dict[str, Tensor], str]:
    fits: Counter[tuple[str, str]] = Counter()  # (path of the dict, prefix in it) -> how many names fit
    for group, tensors in found.groups.items():
        for name in tensors:
            for start in _starts(name):
                if name[len(start) :] in own and (prefix is None or prefix.rstrip(".") == (group + start).rstrip(".")):
                    fits[group, start] += 1
    if not fits:
        raise _nothing_fits(found, own, prefix, path)
    most = max(fits.values())
    (group, start), *others = sorted((k for k, n in fits.items() if n == most), key=lambda key: len(key[0] + key[1]))
    state = {}
    for name, tensor in found.groups[group].items():
        if name.startswith(start):
            state[name[len(start) :]] = tensor
        else:  # beside the backbone; it may not pass for a part of it
            state[f"{name} (not under '{start}')" if name in own else name] = tensor
    how = f", names under '{group}{start}'" if group + start else ""
    if others:
        how += f" (source.prefix chooses; as many fit under {', '.join(repr(a + b) for a, b in others[:3])})"
    return state, how


def _starts(name: str) -> list[str]:
    """Every prefix that `name` may have: "", and up to each dot."""
    return ["", *(name[: i + 1] for i, letter in enumerate(name) if letter == ".")]


def _nothing_fits(found: WeightFile, own: dict[str, Tensor], prefix: str | None, path: str) -> ConfigError:
    names = [group + name for group, tensors in found.groups.items() for name in tensors]
    advice = "Use the model that the file is of"
    if prefix is not None:
        advice = "Leave source.prefix out to have it found"
    elif found.ordered and any(_mismatch(tensors, own) is None for tensors in found.groups.values()):
        advice = "Its tensors agree with the model's in number, order and shape: source.match=order takes them so"
    under = f" under 'source.prefix={prefix}'" if prefix is not None else ""
    return ConfigError(
        f"Nothing in {path}{under} fits this model. Expected names such as {', '.join(list(own)[:3])} ({len(own)} in "
        f"all). Found {', '.join(names[:3])} ({len(names)} in all). {advice}."
    )


def _by_order(found: WeightFile, own: dict[str, Tensor], path: str) -> tuple[dict[str, Tensor], str]:
    if not found.ordered:
        raise ConfigError(
            f"{path} is a safetensors file, which keeps no order: source.match=order needs torch's format."
        )
    misses = {group: _mismatch(tensors, own) for group, tensors in found.groups.items()}
    group = next((group for group, miss in misses.items() if miss is None), None)
    if group is None:
        largest = max(found.groups, key=lambda group: len(found.groups[group]))
        raise ConfigError(
            f"The tensors of {path} are not this model's in order: {misses[largest]} (source.match=order). "
            "Use the model that the file is of."
        )
    names = list(found.groups[group])
    state = {mine: found.groups[group][theirs] for mine, theirs in zip(own, names, strict=False)}
    for name in names[len(own) :]:  # a classifier, say; it may not pass for a part of the backbone
        state[f"{name} (after the backbone)" if name in own else name] = found.groups[group][name]
    return state, ", names matched by order"


def _mismatch(theirs: dict[str, Tensor], own: dict[str, Tensor]) -> str | None:
    """Where the tensors of a file, taken in order, are first not the backbone's; None where they all are.

    Shapes must agree, and so must what each tensor is (a weight, a bias, ...), where both names say it in torch's words.
    """
    if len(theirs) < len(own):
        return f"expected {len(own)} tensors or more, found {len(theirs)}"
    for number, ((a, mine), (b, other)) in enumerate(zip(own.items(), theirs.items(), strict=False), 1):
        kinds = {a.rsplit(".", 1)[-1], b.rsplit(".", 1)[-1]}
        if mine.shape != other.shape or (len(kinds) == 2 and kinds <= KINDS):
            return f"tensor {number} is '{b}' {tuple(other.shape)}, expected '{a}' {tuple(mine.shape)}"
    return None

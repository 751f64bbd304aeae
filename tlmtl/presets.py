"""The YAML files there are to choose from, packaged and the user's own, as `tlmtl list` shows them. Torch- and Hydra-free."""

import os
from dataclasses import dataclass
from pathlib import Path

GROUP_NAMES = {
    "model": "what is trained",
    "source": "where pre-trained parameters come from",
    "dataset": "the target data",
    "strategy": "what starts from the source, which parameters train, how fast, from when",
    "optimizer": "torch.optim, or any class of it by optimizer._target_",
    "schedule": "how the learning rate moves",
    "weighting": "how several task losses become one update",
    "sharing": "how tasks share the encoder",
    "term": "extra losses, added with term=[a,b]",
    "fusion": "how several heads become one prediction",
    "logger": "where a run's numbers go as it trains, beside its folder",
    "hardware": "where it runs",
    "experiment": "whole set-ups, added with +experiment=NAME",
}


@dataclass(frozen=True)
class Preset:
    group: str
    name: str
    about: str  # the first comment line of its file
    path: Path


def packaged_folder() -> Path:
    """The folder of the packaged configs, found without importing more than this package."""
    from importlib.util import find_spec

    spec = find_spec("tlmtl.conf")
    assert spec is not None and spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations)))


def user_folder() -> Path | None:
    """./conf when it is the user's: owned by them, with a folder named like one of the groups that holds YAML files,
    and not the packaged folder itself (as in a clone of this repository)."""
    folder = Path.cwd() / "conf"
    try:
        if not folder.is_dir() or folder.resolve() == packaged_folder().resolve():
            return None
        if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
            return None
        holds = any(any((folder / group).glob("*.yaml")) for group in GROUP_NAMES)
    except OSError:
        return None
    return folder if holds else None


def presets(group: str, folders: list[Path]) -> list[Preset]:
    """The members of a group in the given folders, by name; the first folder that has a name wins, as in Hydra."""
    found: dict[str, Preset] = {}
    for folder in folders:
        for path in sorted((folder / group).glob("*.yaml")):
            if path.stem not in found:
                found[path.stem] = Preset(group, path.stem, _about(path), path)
    return sorted(found.values(), key=lambda preset: preset.name)


def _about(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    comments = [line.lstrip("# ").strip() for line in lines if line.startswith("#") and "@package" not in line]
    return comments[0] if comments else ""

"""Where an export goes: which format a user means, and what would be overwritten. Torch-free."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from tlmtl.errors import ConfigError, nearest

SUFFIXES = {
    "onnx": ".onnx",
    "pt2": ".pt2",
    "safetensors": ".safetensors",
}  # by format; the first is the one not asked for
NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime")}
OTHERS = (
    ".bin",
    ".ckpt",
    ".h5",
    ".json",
    ".pb",
    ".pth",
    ".pt",
    ".tflite",
    ".zip",
)  # nobody means a folder of such a name
OF_RUNS = ("model.safetensors", "run.json")  # what an export beside them must never replace


@dataclass(frozen=True)
class Place:
    """The files of an export: the model, and beside it what it says of itself."""

    form: str
    model: Path
    about: Path


def choose(form: str | None, out: Path | None, run: Path, force: bool) -> Place:
    """Where the export goes: `out` is a file when it ends in a format's suffix, else a folder; by default a folder in the
    run's.

    Raises ConfigError for an unknown format or one that `out` contradicts, a format whose packages are not there, a folder
    that is not there to put it in, and, unless `force`, anything that would be replaced.
    """
    named = next((known for known, suffix in SUFFIXES.items() if out is not None and out.suffix == suffix), None)
    if form is not None and form not in SUFFIXES:
        raise ConfigError(f"Unknown format '{form}'.{nearest(form, list(SUFFIXES))} --format is {_or(list(SUFFIXES))}.")
    if form and named and named != form:
        raise ConfigError(f"--format {form} is a file that ends in {SUFFIXES[form]}. Found --out {out}.")
    form = form or named or next(iter(SUFFIXES))
    for package in NEEDS.get(form, ()):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"--format {form} needs the package {package}, which is not installed: pip install 'tlmtl[export]'. Without: "
                "--format pt2 or safetensors."
            )
    if named and out is not None:
        place, folder = Place(form, out, out.with_name(f"{out.name}.json")), out.parent
    else:
        top = run / "export" / form if out is None else out
        place, folder = Place(form, top / f"model{SUFFIXES[form]}", top / "model.json"), top.parent
        _check_folder(top, force)
    if out is not None and not folder.is_dir():
        raise ConfigError(f"--out should be in a folder that is there. Found no folder {folder}.")
    _check_files(place, force)
    return place


def _check_folder(top: Path, force: bool) -> None:
    if (top.exists() and not top.is_dir()) or top.suffix.lower() in (*OTHERS, *SUFFIXES.values()):
        raise ConfigError(
            f"--out should be a folder, or a file that ends in {_or(list(SUFFIXES.values()))}. Found {top}."
        )
    if top.is_dir() and not force and any(top.iterdir()):
        raise ConfigError(
            f"{top} is there already, and is not empty. --force replaces an export in it; --out PATH is another."
        )


def _check_files(place: Place, force: bool) -> None:
    for path in (place.model, place.about):
        if path.name in OF_RUNS and (path.parent / "run.json").exists():
            raise ConfigError(f"{path} belongs to the run in {path.parent}. Choose another --out.")
        if path.is_dir():
            raise ConfigError(f"The export would write the file {path}, and there is a folder of that name.")
        if path.exists() and not force:
            raise ConfigError(f"{path} is there already. --force replaces it; --out PATH writes elsewhere.")


def _or(words: list[str]) -> str:
    return ", ".join(words[:-1]) + f" or {words[-1]}"

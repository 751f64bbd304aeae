"""`dataset=folder`: the user's own images, `DIR/<class>/*` or `DIR/{train,val,test}/<class>/*`; without labels, the same
without the folders of classes."""

from pathlib import Path

import numpy as np

from tlmtl.data.decode import SUFFIXES
from tlmtl.data.examples import Examples
from tlmtl.data.scan import images_of, readable, scan
from tlmtl.errors import ConfigError

SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def folder(root: str, on_bad_image: str = "error", *, cache: Path | None = None) -> Examples:
    """Task `label`: the name of the folder that an image lies in.

    A split that has no folder is cut from the training images. Hidden files are passed over. Images of one class, or that lie
    in `root` (or the folders of splits) itself, are data without labels: for a reconstruction.

    Arguments:
        root: the folder.
        on_bad_image: "error" names the files that are no whole images; "skip" leaves them out and counts them.

    Raises ConfigError for a folder that is not there or has no images.
    """
    top = Path(root).expanduser()
    if not top.is_dir():
        raise ConfigError(
            f"'dataset.root' should be a folder. Found {'a file' if top.exists() else 'nothing'} at {top}."
        )
    notes: list[str] = []
    found = _files(top)
    if not found:
        found, notes = _flat(top)
    wanted = f"Expected images at {top}/<class>/* or {top}/{{train,val,test}}/<class>/*, found none{_hint(top)}."
    if not found:
        raise ConfigError(wanted)
    paths = [str(path) for path, _, _ in found]
    facts = scan(paths, cache)
    good, bad = readable(facts, paths, on_bad_image)
    kept = [found[i] for i in good]
    if not kept:
        raise ConfigError(f"None of the images in {top} can be read.")
    classes = sorted({name for _, name, _ in kept})
    no_labels = ""
    if classes == [""]:
        no_labels = wanted
    elif len(classes) < 2:
        no_labels = f"Expected two classes or more in {top}, found 1: {classes[0]}."
    number = {name: i for i, name in enumerate(classes)}
    splits = np.array([split for _, _, split in kept])
    return Examples(
        images=images_of(paths, facts, good),
        columns={} if no_labels else {"label": np.array([number[name] for _, name, _ in kept], dtype=np.int64)},
        classes={} if no_labels else {"label": classes},
        ids=[path.relative_to(top).as_posix() for path, _, _ in kept],
        split=splits if splits.any() else None,
        bad=bad,
        notes=notes if classes == [""] else _passed_over(found),
        no_labels=no_labels,
    )


def _tops(top: Path) -> list[tuple[Path, str]]:
    """The folders that classes lie in, and the split of each, or ""."""
    names = [entry.name for entry in _folders(top)]
    split = "train" in names and all(name in SPLIT_FOLDERS for name in names)
    return [(top / name, SPLIT_FOLDERS[name]) for name in names] if split else [(top, "")]


def _flat(top: Path) -> tuple[list[tuple[Path, str, str]], list[str]]:
    """Images without folders of classes: (file, "", split or ""), and a note on the other files beside them."""
    files = [
        (path, "", name)
        for place, name in _tops(top)
        for path in sorted(place.iterdir())
        if path.is_file() and not path.name.startswith(".")
    ]
    images = [one for one in files if one[0].suffix.lower() in SUFFIXES]
    others = [one[0].name for one in files if one[0].suffix.lower() not in SUFFIXES]
    return images, [f"Passed over: {len(others)} file(s) that are no images, such as {others[0]}."] if others else []


def _files(top: Path) -> list[tuple[Path, str, str]]:
    """(file, class, split or "") in a fixed order."""
    return [
        (path, entry.name, name)
        for place, name in _tops(top)
        for entry in _folders(place)
        for path in sorted(entry.iterdir())
        if path.is_file() and not path.name.startswith(".")
    ]


def _hint(top: Path) -> str:
    if any(path.suffix.lower() in SUFFIXES for path in top.iterdir()):
        return " (images lie in the folder itself: one folder for each class is needed)"
    deeper = next((path for path in sorted(top.rglob("*")) if path.suffix.lower() in SUFFIXES), None)
    return f" (images lie deeper, such as {deeper}: dataset=table takes any)" if deeper else ""


def _passed_over(found: list[tuple[Path, str, str]]) -> list[str]:
    """A note on folders inside the folders of classes, which are not looked into."""
    inner = [entry for place in sorted({path.parent for path, _, _ in found}) for entry in _folders(place)]
    return [f"Passed over: {len(inner)} folder(s) inside the folders of classes, such as {inner[0]}."] if inner else []


def _folders(top: Path) -> list[Path]:
    return sorted(entry for entry in top.iterdir() if entry.is_dir() and not entry.name.startswith("."))

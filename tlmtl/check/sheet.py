"""The contact sheet: some images of each class as the model takes them, and beside them as training would change them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tlmtl import files
from tlmtl.check.finding import some
from tlmtl.check.labels import Labels
from tlmtl.check.survey import Survey
from tlmtl.data.augment import augmentation
from tlmtl.data.streams import generator_for

ROWS, ACROSS = 12, 6  # classes, and images of each
TILE, GAP, MARGIN, LINE = 112, 6, 24, 22  # pixels
BETWEEN = 36  # the two blocks
INK, GREY = "#222222", "#777777"


@dataclass
class Row:
    """One class: its title, what stands beside it, and which images are shown."""

    title: str
    about: str
    where: list[int]


def draw(found: Survey, cfg: Any, path: Path) -> str:
    """Write the picture to `path`. Returns what it shows, in a few words."""
    task = _task(found)
    rows = _rows(found, task, cfg.dataset.split_seed) if task else [_any(found)]
    augment = str(cfg.dataset.augment)
    tiles = [found.examples.images.read(torch.tensor(row.where), found.preprocess) for row in rows]
    blocks = [("as the model takes them", tiles)]
    if augment != "none":
        change, generator = augmentation(augment), generator_for("check", cfg.dataset.split_seed)
        blocks.append((f"dataset.augment={augment}", [change(part, generator) for part in tiles]))
    size = "x".join(str(side) for side in (tiles[0].shape[3], tiles[0].shape[2]))
    total = len(task.classes) if task and task.classes else 0
    what = "label" if task and task.kind == "multilabel" else "class"
    images = some(sum(len(row.where) for row in rows), "image")
    part = f"{len(rows)} of " if len(rows) < total else ""
    shown = f"{part}{some(total, what)}, {images}" if total else images
    about = f"{f'task {task.name}: ' if task else ''}{shown} of {size} pixels"
    name = cfg.composed.choices.get("dataset", "dataset")
    about = " ".join(about.split())
    picture = _picture(f"{name}, {about}", rows, blocks)
    files.write(path, lambda temporary: picture.save(temporary, format="PNG"))
    return about


def _task(found: Survey) -> Labels | None:
    """The task whose labels the rows follow: the first of a run's classifications, else whichever there is."""
    order = sorted(
        found.tasks, key=lambda t: (not t.chosen, ("classification", "multilabel", "regression").index(t.kind))
    )
    return order[0] if order else None


def _rows(found: Survey, task: Labels, seed: int) -> list[Row]:
    """Images drawn at random (the same at every call), training ones where there are some."""
    random = np.random.default_rng(seed)
    order = np.concatenate([random.permutation(where) for where in found.splits.values()])
    values = task.values[order]
    if task.classes is None:
        return _by_value(order[np.isfinite(values)], task)
    rows: list[Row] = []
    for number, name in enumerate(task.classes):
        have = values[:, number] == 1 if values.ndim > 1 else values == number
        if have.any() and len(rows) < ROWS:
            rows.append(Row(name, some(int(have.sum()), "image"), order[have][:ACROSS].tolist()))
    return rows or [_any(found)]


def _by_value(order: np.ndarray, task: Labels) -> list[Row]:
    """Evenly from the smallest value to the greatest."""
    order = order[np.argsort(task.values[order], kind="stable")]
    chosen = order[np.linspace(0, len(order) - 1, min(len(order), 6 * ACROSS)).round().astype(int)]
    rows = []
    for part in (chosen[at : at + ACROSS] for at in range(0, len(chosen), ACROSS)):
        low, high = task.values[part[0]], task.values[part[-1]]
        rows.append(Row(f"{low:.4g} to {high:.4g}", "", part.tolist()))
    return rows


def _any(found: Survey) -> Row:
    return Row("images", "without labels", list(range(min(ACROSS, len(found.examples)))))


def _picture(title: str, rows: list[Row], blocks: list[tuple[str, list[Tensor]]]) -> Any:
    from PIL import Image, ImageDraw

    across = max(len(row.where) for row in rows)
    cells = [_cell(part) for part in blocks[0][1]]
    width, height = max(w for w, _ in cells), max(h for _, h in cells)
    block = across * (width + GAP) - GAP
    wide = max(2 * MARGIN + len(blocks) * block + (len(blocks) - 1) * BETWEEN, 2 * MARGIN + 420)
    top = MARGIN + LINE + 8 + LINE
    step = LINE + height + 14
    image = Image.new("RGB", (wide, top + len(rows) * step + MARGIN - 14), "white")
    pen = ImageDraw.Draw(image)
    large, small, bold = _font(15, bold=True), _font(12), _font(13, bold=True)
    pen.text((MARGIN, MARGIN - 6), _short(title, large, wide - 2 * MARGIN), INK, large)
    for number, (heading, parts) in enumerate(blocks):
        left = MARGIN + number * (block + BETWEEN)
        pen.text((left, MARGIN + LINE), heading, GREY, small)
        for at, (row, tiles) in enumerate(zip(rows, parts, strict=True)):
            y = top + at * step
            name = _short(row.title, bold, block - 90)
            pen.text((left, y), name, INK, bold)
            pen.text((left + bold.getlength(name) + 8, y + 1), row.about, GREY, small)
            for place, tile in enumerate(tiles):
                image.paste(_tile(tile, *cells[at]), (left + place * (width + GAP), y + LINE))
    return image


def _cell(tiles: Tensor) -> tuple[int, int]:
    """Width and height on the sheet: the longer side is TILE."""
    height, width = tiles.shape[-2:]
    scale = TILE / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _tile(tile: Tensor, width: int, height: int) -> Any:
    from PIL import Image

    pixels = tile.numpy()
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    how = Image.Resampling.NEAREST if width > image.width else Image.Resampling.LANCZOS  # pixels stay pixels
    return image.convert("RGB").resize((width, height), how)


def _font(size: int, bold: bool = False) -> Any:
    """DejaVu Sans, which matplotlib brings: it has Latin, Greek, Cyrillic, Arabic and many signs."""
    import matplotlib
    from PIL import ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(folder / f"DejaVuSans{'-Bold' if bold else ''}.ttf", size)


def _short(text: str, font: Any, width: float) -> str:
    """`text` as far as it fits."""
    text = "".join(letter if letter.isprintable() else "\ufffd" for letter in text)  # a line end cannot be drawn
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."

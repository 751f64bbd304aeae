"""Data sets of a user's own, whole and broken ones, for the tests of several files."""

import csv
import re
import shutil

import numpy as np
from omegaconf import OmegaConf
from PIL import Image

from tlmtl.data.dataset import load, with_tasks

SIZES = {"cat": 14, "dog [big]": 7, "Bär": 3}  # training images


def picture(path, seed, size=(48, 32), mode="RGB"):
    """Smooth, so that a copy in another format looks the same, and unlike any other seed's."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode).save(path)
    return path


def broken_folder(top):
    """A folder with its own splits and with everything wrong with it that a folder can have."""
    for c, (name, count) in enumerate(SIZES.items()):
        for i in range(count):
            picture(top / "train" / name / f"{i}.png", 100 * c + i, (48, 32) if i else (160, 32))
        for split, k in (("val", 2), ("test", 3)):
            for i in range(k):
                picture(top / split / name / f"{i}.png", 1000 * (1 + (split == "test")) + 100 * c + i)
    cat = top / "train" / "cat"
    (cat / "notes.txt").write_text("not an image")
    whole = picture(cat / "cut.png", 77, (64, 64)).read_bytes()
    (cat / "cut.png").write_bytes(whole[: len(whole) // 2])
    shutil.copy(cat / "1.png", top / "test" / "cat" / "copy.png")
    shutil.copy(cat / "2.png", top / "val" / "cat" / "copy.png")
    shutil.copy(cat / "3.png", top / "train" / "dog [big]" / "again.png")
    Image.open(cat / "4.png").save(top / "test" / "cat" / "near.jpg", quality=95, subsampling=0)
    for number, (name, mode) in enumerate({"grey": "L", "rgba": "RGBA", "pal": "P"}.items()):
        picture(cat / f"{name}.png", 91 + number, mode=mode)
    Image.fromarray(np.arange(1536, dtype=np.uint16).reshape(32, 48)).save(cat / "deep.png")
    picture(top / "test" / "cow" / "0.png", 5000)
    return top


def table_of(top, rows, header):
    top.mkdir(parents=True, exist_ok=True)
    with (top / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return top / "labels.csv"


def broken_table(top):
    """A table with everything wrong with it that a table can have and still be one."""
    rows = []
    for i in range(40):
        animal, age = ("cat", "dog")[i % 2], f"{i / 2}"
        split = "train" if i < 24 else "val" if i < 32 else "test"
        picture(top / f"{i}.png", i)
        rows.append([f"{i}.png", animal, age, ("fur;tail", "fur", "tail;wet")[i % 3], f"p{i // 3}", split])
    rows[3][1] = rows[30][1] = rows[5][2] = ""
    rows[39][1] = "cow"
    rows.append(["gone.png", "cat", "1", "fur", "p0", "train"])
    (top / "notes.png").write_text("no image")
    rows.append(["notes.png", "cat", "1", "fur", "p0", "train"])
    shutil.copy(top / "1.png", top / "copy.png")
    rows.append(["copy.png", "dog", "1", "fur", "p99", "test"])
    return table_of(top, rows, ["file", "animal", "age", "traits", "patient", "split"])


def counts(text, name):
    """The numbers in the row of a printed table that begins with `name`."""
    found = re.search(rf"^  {re.escape(name)} +([\d., ]+)$", text, re.M)
    assert found, f"{name!r} has no row in {text}"
    return [int(number.replace(",", "")) for number in found[1].split()]


def loaded(family, tasks="default", cache=None, **settings):
    """`dataset=FAMILY` (`folder` or `table`) with these settings, loaded as a run does."""
    stated = {"label": {"kind": "classification"}} if family == "folder" else {}
    node = OmegaConf.create({"_target_": f"tlmtl.data.{family}.{family}", "tasks": stated, **settings})
    return load(with_tasks(node, "dataset", []), tasks, [], cache)

"""What `public.py` knows of each data set in torchvision: how its splits are asked for, how large it is, where it lies."""

from dataclasses import dataclass
from typing import Any

BY_FLAG: dict[str, dict[str, Any]] = {"train": {"train": True}, "test": {"train": False}}
BY_NAME: dict[str, dict[str, Any]] = {"train": {"split": "train"}, "test": {"split": "test"}}
THREE: dict[str, dict[str, Any]] = {split: {"split": split} for split in ("train", "val", "test")}
TRAINVAL: dict[str, dict[str, Any]] = {"train": {"split": "trainval"}, "test": {"split": "test"}}
CELEBA: dict[str, dict[str, Any]] = {"train": {"split": "train"}, "val": {"split": "valid"}, "test": {"split": "test"}}
NONE: dict[str, dict[str, Any]] = {"all": {}}  # no official split: ours is cut


@dataclass(frozen=True)
class PublicSet:
    """One data set.

    Arguments:
        folder: what torchvision calls its folder below the root; "" for files in the root itself.
        splits: for each of our splits, the arguments that torchvision's class takes for it.
        sizes: the number of images in each split.
        size: what is downloaded.
        classes: the attribute that has the names of the classes; "" where none has.
        tracks: whether several training images show one and the same object (`public._tracks`).
    """

    folder: str
    splits: dict[str, dict[str, Any]]
    sizes: dict[str, int]
    size: str
    classes: str = "classes"
    tracks: bool = False


def _sizes(train: int, test: int, val: int | None = None) -> dict[str, int]:
    return {"train": train, "test": test} if val is None else {"train": train, "val": val, "test": test}


SETS = {
    "CIFAR10": PublicSet("cifar-10-batches-py", BY_FLAG, _sizes(50_000, 10_000), "170 MB"),
    "CIFAR100": PublicSet("cifar-100-python", BY_FLAG, _sizes(50_000, 10_000), "169 MB"),
    "MNIST": PublicSet("MNIST", BY_FLAG, _sizes(60_000, 10_000), "12 MB"),
    "FashionMNIST": PublicSet("FashionMNIST", BY_FLAG, _sizes(60_000, 10_000), "31 MB"),
    "SVHN": PublicSet("", BY_NAME, _sizes(73_257, 26_032), "246 MB", classes=""),
    "STL10": PublicSet("stl10_binary", BY_NAME, _sizes(5_000, 8_000), "2.6 GB"),
    "Flowers102": PublicSet("flowers-102", THREE, _sizes(1_020, 6_149, 1_020), "345 MB"),
    "OxfordIIITPet": PublicSet("oxford-iiit-pet", TRAINVAL, _sizes(3_680, 3_669), "811 MB"),
    "DTD": PublicSet("dtd", THREE, _sizes(1_880, 1_880, 1_880), "625 MB"),
    "EuroSAT": PublicSet("eurosat", NONE, {"all": 27_000}, "94 MB"),
    "Food101": PublicSet("food-101", BY_NAME, _sizes(75_750, 25_250), "5 GB"),
    "FGVCAircraft": PublicSet("fgvc-aircraft-2013b", TRAINVAL, _sizes(6_667, 3_333), "2.8 GB"),
    "Caltech101": PublicSet("caltech101", NONE, {"all": 8_677}, "137 MB", classes="categories"),
    "GTSRB": PublicSet("gtsrb", BY_NAME, _sizes(26_640, 12_630), "277 MB", classes="", tracks=True),
    "CelebA": PublicSet(
        "celeba", CELEBA, _sizes(162_770, 19_962, 19_867), "1.5 GB, with `pip install gdown`", classes="attr_names"
    ),
}


def calls(name: str, root: str, download: bool, partition: int | None) -> dict[str, dict[str, Any]]:
    """By split: the arguments that torchvision's class of that name is called with."""
    more = {} if partition is None else {"partition": partition}
    return {
        split: {"root": root, "download": download, **arguments, **more}
        for split, arguments in SETS[name].splits.items()
    }

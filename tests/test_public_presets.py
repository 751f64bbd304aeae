"""Public data sets, all of them: how torchvision's classes are called, the presets, and what is not there."""

import inspect

import numpy as np
import pytest
import torch
from conftest import refused
from omegaconf import OmegaConf
from PIL import Image
from test_public import loaded, sizes
from torchvision import datasets

from tlmtl.data import public
from tlmtl.data.public_sets import SETS, calls
from tlmtl.errors import ConfigError
from tlmtl.presets import packaged_folder

YAMLS = sorted(
    path.stem
    for path in (packaged_folder() / "dataset").glob("*.yaml")
    if OmegaConf.load(path)["_target_"] == "tlmtl.data.public.public"
)
PER_CLASS = {"aircraft", "caltech101", "flowers102", "oxford_pets"}


@pytest.mark.parametrize("name", SETS)
def test_torchvision_takes_what_it_is_given(name):
    signature = inspect.signature(getattr(datasets, name))
    found = calls(name, "data", False, 3 if name == "DTD" else None)
    assert list(found) == list(SETS[name].sizes)
    for arguments in found.values():
        bound = signature.bind(**arguments).arguments  # a renamed argument fails
        assert bound["root"] == "data" and bound["download"] is False
    assert len({str(arguments) for arguments in found.values()}) == len(found)


def test_every_set_has_a_preset():
    assert sorted(OmegaConf.load(packaged_folder() / "dataset" / f"{n}.yaml")["name"] for n in YAMLS) == sorted(SETS)
    assert len(YAMLS) == 15


class Bare:
    """What torchvision promises of a data set, and no more."""

    def __init__(self, count, labels):
        self.count, self.labels_of = count, labels

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        return Image.fromarray(np.full((8, 8), self.count + i, np.uint8)), self.labels_of(i)


@pytest.mark.parametrize("file", YAMLS)
def test_every_preset_builds_on_the_public_interface(file, tmp_path, monkeypatch):
    name = OmegaConf.load(packaged_folder() / "dataset" / f"{file}.yaml")["name"]
    labels = (lambda i: torch.arange(40) % 2) if name == "CelebA" else lambda i: i % 3
    counts = iter((30, 60, 90))
    monkeypatch.setattr(datasets, name, lambda **arguments: Bare(next(counts), labels))
    (tmp_path / SETS[name].folder).mkdir(exist_ok=True)
    data = loaded(file, tmp_path)
    assert all(sizes(data).values()) and len(data.examples) == sum(sizes(data).values())
    (task,) = data.tasks.values()
    assert task.metrics[0] == ("mean_class_accuracy" if file in PER_CLASS else "accuracy")
    if name != "CelebA":
        assert set(data.targets["label"].tolist()) == {0, 1, 2}
    about = (packaged_folder() / "dataset" / f"{file}.yaml").read_text().splitlines()[0]
    assert ("ours are cut" in about) == (SETS[name].splits == {"all": {}}) and SETS[name].size.split(",")[0] in about


# what is not there


@pytest.mark.parametrize("file", YAMLS)
def test_what_is_not_there_is_told(main, tmp_path, file):
    name = OmegaConf.load(packaged_folder() / "dataset" / f"{file}.yaml")["name"]
    said = main("train", f"dataset={file}")
    refused(said, f"{name} is not there", "'dataset.root=data'", "dataset.download=true", SETS[name].size)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("file", "name"), [("cifar100", "CIFAR100"), ("stl10", "STL10"), ("eurosat", "EuroSAT")])
def test_what_is_broken_is_told(main, tmp_path, file, name):
    (tmp_path / SETS[name].folder).mkdir()
    said = main("train", f"dataset={file}", f"dataset.root={tmp_path}")
    refused(said, f"{name} cannot be read from", "RuntimeError: Dataset not found", "dataset.download=true")
    assert "You can use" not in said.err


def test_a_failed_download_is_told(main, monkeypatch):
    from urllib.error import URLError

    def no_network(*args, **kwargs):
        raise URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    for file, word in (("eurosat", "94 MB"), ("svhn", "246 MB"), ("mnist", "12 MB"), ("gtsrb", "277 MB")):
        said = main("train", f"dataset={file}", "dataset.download=true")
        refused(said, "could not be downloaded to data", word, "Name or service not known", "Is there a network?")
        assert "remove data" not in said.err


def test_unknown_names():
    with pytest.raises(ConfigError, match=r"Unknown 'dataset.name=CIFAR1'. Did you mean 'CIFAR10'\?"):
        public.public("CIFAR1")

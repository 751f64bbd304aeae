"""The solar cells of `elpv-dataset`: what they are, how they are split, and what is said without them."""

import numpy as np
import pytest
import torch
from conftest import refused, write
from PIL import Image

import tlmtl
from tlmtl.data import elpv, read
from tlmtl.data.dataset import load
from tlmtl.errors import ConfigError
from tlmtl.files import cache_folder
from tlmtl.preprocess import Preprocess

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data(shared_cache):
    pytest.importorskip("elpv_dataset")
    cfg = tlmtl.compose(["dataset=elpv", "tasks=all"])
    return load(cfg.dataset, cfg.tasks, [], cache_folder(None))


def test_what_there_is(data):
    assert len(data.examples) == 2624 and data.channels == 1 and data.examples.images.same_shape
    values, counts = np.unique(data.examples.columns["severity"], return_counts=True)
    assert values.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1]) and counts.tolist() == [1508, 295, 106, 715]
    assert np.bincount(data.examples.columns["defect"]).tolist() == [1508 + 295, 106 + 715]
    assert np.bincount(data.examples.columns["cell"]).tolist() == [1074, 1550]
    assert (data.examples.ids[0], data.examples.ids[-1]) == ("cell0001.png", "cell2624.png")
    assert len(set(data.examples.hashes.tolist())) == 2624  # no exact copies


def test_the_tasks(data):
    assert {name: task.kind for name, task in data.tasks.items()} == {
        "defect": "classification", "severity": "regression", "cell": "classification",
    }  # fmt: skip
    assert data.tasks["defect"].classes == ["functional", "defective"]
    assert data.tasks["cell"].classes == ["monocrystalline", "polycrystalline"]
    first = [data.targets[name][0].item() for name in ("defect", "cell")]
    assert first == [1, 0]  # cell0001.png: 1.0, mono
    assert list(tlmtl.compose(["dataset=elpv"]).dataset.default_tasks) == ["defect"]


def test_splits_are_stratified(data):
    assert {split: len(where) for split, where in data.splits.items()} == {"train": 1575, "val": 393, "test": 656}
    defect = data.examples.columns["defect"]
    for where in data.splits.values():
        assert defect[where].mean() == pytest.approx(821 / 2624, abs=0.001)


def test_its_pictures_are_those_of_its_own_loader(data):
    read = data.examples.images.read(torch.tensor([7]), Preprocess(300, None, (0.5,), (0.5,)))
    with Image.open(elpv._folder() / "images" / data.examples.ids[7]) as image:
        assert read.shape == (1, 1, 300, 300) and (read[0, 0].numpy() == np.asarray(image)).all()


def test_without_the_package(main, monkeypatch):
    monkeypatch.setattr(elpv, "find_spec", lambda name: None)
    read._examples.cache_clear()
    refused(main("train", "dataset=elpv"), "dataset=elpv", "not installed", "pip install 'tlmtl[elpv]'")


def test_a_package_without_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr(elpv, "_folder", lambda: tmp_path)
    with pytest.raises(ConfigError, match=r"'elpv-dataset' should bring .*labels.csv: No such file.*force-reinstall"):
        elpv.elpv()
    write(tmp_path / "labels.csv", "images/cell0001.png  1.0  mono\n")
    with pytest.raises(ConfigError, match=r"found 1 of 1 files that cannot be read"):
        elpv.elpv()

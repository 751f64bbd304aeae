"""Public data sets: torchvision's loaders on small files laid out as theirs."""

import json
import pickle
import struct

import numpy as np
import pandas
import pytest
import torch
import torchvision
from PIL import Image
from torchvision import datasets

import tlmtl
from tlmtl.data import dataset, public, read
from tlmtl.errors import ConfigError
from tlmtl.preprocess import Preprocess

torch.set_num_threads(1)
AS_IS = Preprocess(8, None, (0.5,), (0.5,))
random = np.random.default_rng(0)


def noise(*shape):
    return random.integers(0, 256, shape, dtype=np.uint8)


def photo(path, side=9):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(side, side + 1, 3)).save(path)


def loaded(name, root, *overrides, cache=None):
    cfg = tlmtl.compose([f"dataset={name}", f"dataset.root={root}", *overrides])
    read._examples.cache_clear()
    return dataset.load(cfg.dataset, cfg.tasks, [], cache)


def sizes(data):
    return {split: len(where) for split, where in data.splits.items()}


# files as each data set has them


def mnist(root, train=40, test=20):
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, count in (("train", train), ("t10k", test)):
        pixels, labels = noise(count, 28, 28), (np.arange(count) % 10).astype(np.uint8)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, count, 28, 28) + pixels.tobytes())
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, count) + labels.tobytes())
    return pixels, labels


def cifar10(root):
    top = root / "cifar-10-batches-py"
    top.mkdir()
    pixels = {}
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        pixels[name] = noise(10, 3072)
        (top / name).write_bytes(pickle.dumps({"data": pixels[name], "labels": [3, 0, 1, 2, 4, 5, 6, 7, 8, 9]}))
    names = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (top / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    return pixels


def flowers102(root):
    from scipy.io import savemat

    top = root / "flowers-102"
    for number in range(1, 31):
        photo(top / "jpg" / f"image_{number:05d}.jpg", 8 + number % 3)
    savemat(top / "imagelabels.mat", {"labels": [number % 3 + 1 for number in range(1, 31)]})
    savemat(top / "setid.mat", {"trnid": [*range(10, 22)], "valid": [*range(1, 7)], "tstid": [*range(22, 31)]})


def dtd(root):
    top = root / "dtd" / "dtd"
    (top / "labels").mkdir(parents=True)
    files = [f"{kind}/{kind}_{i:04d}.jpg" for kind in ("banded", "blotchy") for i in range(6)]
    for file in files:
        photo(top / "images" / file)
    for partition in (1, 2):
        for n, split in enumerate(("train", "val", "test")):
            chosen = [file for i, file in enumerate(files) if (i + partition) % 3 == n]
            (top / "labels" / f"{split}{partition}.txt").write_text("\n".join(chosen) + "\n")


def eurosat(root):
    for kind in ("Forest", "River"):
        for i in range(20):
            photo(root / "eurosat" / "2750" / kind / f"{kind}_{i}.jpg")


def gtsrb(root, tracks=6):
    top = root / "gtsrb" / "GTSRB"
    rows = ["Filename;Width;Height;ClassId"]
    for kind in range(2):
        for track in range(tracks):
            for frame in range(3):
                photo(top / "Training" / f"{kind:05d}" / f"{track:05d}_{frame:05d}.ppm")
        photo(top / "Final_Test" / "Images" / f"{kind:05d}.ppm")
        rows.append(f"{kind:05d}.ppm;9;9;{kind}")
    (root / "gtsrb" / "GT-final_test.csv").write_text("\n".join(rows) + "\n")


def celeba(root, count=12):
    top = root / "celeba"
    names = [f"{i:06d}.jpg" for i in range(1, count + 1)]
    for name in names:
        photo(top / "img_align_celeba" / name)

    def table(file, header, rows):
        lines = [f"{name} {row}" for name, row in zip(names, rows, strict=True)]
        (top / file).write_text("\n".join([*header, *lines]) + "\n")

    attributes = np.where(np.arange(count)[:, None] % 2 == np.arange(40) % 2, 1, -1)
    table("list_eval_partition.txt", [], [i % 3 for i in range(count)])
    table("identity_CelebA.txt", [], range(count))
    for kind, width in (("bbox", 4), ("landmarks_align", 10)):
        table(f"list_{kind}_celeba.txt", [str(count), " ".join("x" * width)], [" ".join("1" * width)] * count)
    header = [str(count), " ".join(f"Attribute_{i}" for i in range(40)) + " "]  # the blank is in the real one too
    table("list_attr_celeba.txt", header, [" ".join(map(str, row)) for row in attributes])
    return attributes


def food101(root):
    for split, numbers in (("train", range(8)), ("test", range(8, 11))):
        table = {kind: [f"{kind}/{i}" for i in numbers] for kind in ("apple_pie", "waffles")}
        for file in [one for files in table.values() for one in files]:
            photo(root / "food-101" / "images" / f"{file}.jpg")
        path = root / "food-101" / "meta" / f"{split}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(table))


@pytest.fixture
def any_sum(monkeypatch):
    """Files of ours have other md5 sums than the real ones."""
    for module in ("cifar", "flowers102", "celeba"):
        monkeypatch.setattr(getattr(datasets, module), "check_integrity", lambda path, md5=None: True)


def test_mnist(tmp_path):
    pixels, labels = mnist(tmp_path)
    data = loaded("mnist", tmp_path, "dataset.val_fraction=0.25")
    assert sizes(data) == {"train": 30, "val": 10, "test": 20}
    assert data.splits["test"].tolist() == list(range(40, 60)) and data.channels == 1
    assert (data.examples.images.pixels[40:, 0].numpy() == pixels).all()
    assert data.targets["label"][40:].tolist() == labels.tolist()
    assert data.tasks["label"].classes[7] == "7 - seven" and data.examples.ids[40] == "test/0"
    assert "MNIST should have 60,000 images to train; found 40" in data.examples.notes[0]


def test_cifar_keeps_its_colours_and_names(tmp_path, any_sum):
    pixels = cifar10(tmp_path)
    data = loaded("cifar10", tmp_path)
    assert sizes(data)["test"] == 10 and sizes(data)["train"] + sizes(data)["val"] == 50
    assert data.examples.images.pixels[10].numpy().tobytes() == pixels["data_batch_2"][0].tobytes()
    assert data.tasks["label"].classes[data.targets["label"][0]] == "cat"


def test_flowers_are_files_with_three_splits(tmp_path, any_sum):
    flowers102(tmp_path)
    data = loaded("flowers102", tmp_path)
    assert sizes(data) == {"train": 12, "val": 6, "test": 9} and len(data.tasks["label"].classes) == 102
    first = data.splits["train"][0]
    assert data.examples.ids[first] == "flowers-102/jpg/image_00010.jpg" and data.targets["label"][first] == 1
    with Image.open(tmp_path / data.examples.ids[first]) as image:
        side = min(image.size)
        expected = np.asarray(image).transpose(2, 0, 1)[:, :, :side]
    read = data.examples.images.read(torch.tensor([first]), Preprocess(side, side, (0.5,), (0.5,)))
    assert read.shape == (1, 3, side, side) and (read[0].numpy() == expected).mean() > 0.99


def test_dtd_has_ten_partitions(tmp_path):
    dtd(tmp_path)
    one, two = loaded("dtd", tmp_path), loaded("dtd", tmp_path, "dataset.partition=2")
    assert sizes(one) == sizes(two) == {"train": 4, "val": 4, "test": 4} and one.hash != two.hash
    named = [{data.examples.ids[i] for i in data.splits["test"]} for data in (one, two)]
    assert named[0] != named[1] and "dtd/dtd/images/banded/banded_0001.jpg" in named[0]
    with pytest.raises(ConfigError, match=r"'dataset.partition' should be 1 to 10: DTD has ten. Found 11"):
        loaded("dtd", tmp_path, "dataset.partition=11")
    with pytest.raises(ConfigError, match=r"'dataset.partition' is for DTD alone: EuroSAT .* Found 2"):
        public.public("EuroSAT", str(tmp_path), partition=2)
    with pytest.raises(ConfigError, match=r"DTD cannot be read from .*/dtd .*FileNotFoundError.*train3.txt"):
        loaded("dtd", tmp_path, "dataset.partition=3")
    (tmp_path / "dtd" / "dtd" / "labels" / "test1.txt").write_text("banded/banded_0001.jpg\n")
    with pytest.raises(ConfigError, match=r"The splits of DTD name different classes \(2, 2, 1 of them\)"):
        loaded("dtd", tmp_path)


def test_eurosat_is_cut(tmp_path):
    eurosat(tmp_path)
    data = loaded("eurosat", tmp_path)
    assert sizes(data) == {"train": 28, "val": 4, "test": 8} and data.examples.split is None
    assert data.tasks["label"].classes == ["Forest", "River"]
    assert data.examples.notes == [
        "EuroSAT should have 27,000 images; found 40. If its download was broken off, remove its folder and fetch it again."
    ]


def test_traffic_signs_of_one_track_stay_together(tmp_path):
    gtsrb(tmp_path)
    data = loaded("gtsrb", tmp_path)
    assert sizes(data)["test"] == 2 and sizes(data)["train"] + sizes(data)["val"] == 36
    tracks = [{data.examples.groups[i] for i in data.splits[split]} for split in ("train", "val")]
    assert len(tracks[0] | tracks[1]) == 12 and not tracks[0] & tracks[1] and len(tracks[1]) >= 2
    assert data.examples.ids[data.splits["test"][1]] == "gtsrb/GTSRB/Final_Test/Images/00001.ppm"
    assert data.tasks["label"].classes == ["0", "1"]


def test_faces_have_forty_labels(tmp_path, any_sum):
    attributes = celeba(tmp_path)
    data = loaded("celeba", tmp_path)
    assert sizes(data) == {"train": 4, "val": 4, "test": 4} and list(data.tasks) == ["attributes"]
    assert data.tasks["attributes"].classes == [f"Attribute_{i}" for i in range(40)]
    where = [int(data.examples.ids[i].split(".")[0]) - 1 for i in range(12)]
    assert (data.targets["attributes"].numpy() == (attributes[where] > 0)).all()
    scores = torch.where(data.targets["attributes"] > 0, 4.0, -4.0)
    scores[:, 0] *= -1
    assert data.tasks["attributes"].measure(scores, data.targets["attributes"])["accuracy"] == pytest.approx(39 / 40)


def test_images_are_looked_at_once(tmp_path, monkeypatch):
    food101(tmp_path / "data")
    read = []
    monkeypatch.setattr(public, "_image", lambda part, i, real=public._image: (read.append(i), real(part, i))[1])
    first = loaded("food101", tmp_path / "data", cache=tmp_path / "cache")
    assert len(read) == 22 and sizes(first)["test"] == 6
    again = loaded("food101", tmp_path / "data", cache=tmp_path / "cache")
    assert len(read) == 22 and again.hash == first.hash
    photo(tmp_path / "data" / "food-101" / "images" / "waffles" / "3.jpg")
    changed = loaded("food101", tmp_path / "data", cache=tmp_path / "cache")
    assert len(read) == 44 and changed.hash != first.hash
    monkeypatch.setattr(torchvision, "__version__", "99")
    assert loaded("food101", tmp_path / "data", cache=tmp_path / "cache").hash == changed.hash and len(read) == 66


def test_a_broken_image_is_named_or_left_out(tmp_path):
    food101(tmp_path)
    bad = tmp_path / "food-101" / "images" / "waffles" / "3.jpg"
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(ConfigError, match=r"found 1 of 22 files.*\n  food-101/images/waffles/3.jpg: \w+"):
        loaded("food101", tmp_path)
    data = loaded("food101", tmp_path, "dataset.on_bad_image=skip")
    assert data.examples.skipped == 1 and len(data.examples.ids) == 21 == len(data.targets["label"])
    assert data.examples.images.read(torch.tensor([20]), AS_IS).shape == (1, 3, 8, 9)
    left = {identity: label.item() for identity, label in zip(data.examples.ids, data.targets["label"], strict=True)}
    assert all(label == ("waffles" in identity) for identity, label in left.items())


def test_a_run_from_files_to_a_row(main, tmp_path):
    mnist(tmp_path / "data")
    said = main(
        "train", "dataset=mnist", "strategy=from_scratch", "train.epochs=1", "model.width=4", "progress=false",
        "dataset.val_fraction=0.25",
    )  # fmt: skip
    assert said.code == 0, said.all
    (row,) = pandas.read_csv(tmp_path / "outputs" / "runs" / "latest" / "results.csv").to_dict("records")
    assert (row["dataset"], row["task"], row["status"]) == ("mnist", "label", "done")
    assert 0 <= row["test/accuracy"] <= 1 and row["examples_seen"] == 30

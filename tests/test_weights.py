"""Parameters from files and from packages: whose names fit how, what they then say of a picture, and all that is refused."""

import json
from pathlib import Path

import pytest
import torch
from conftest import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from tlmtl.errors import ConfigError
from tlmtl.models.digest import hash_state
from tlmtl.models.encoder import Encoder
from tlmtl.models.expected import changed
from tlmtl.models.small_cnn import small_cnn
from tlmtl.models.source import SEEN, load_into
from tlmtl.models.timm import timm_model
from tlmtl.models.torchvision import torchvision_model
from tlmtl.models.weightfile import WeightFile
from tlmtl.models.weights import fitted, from_file
from tlmtl.preprocess import Preprocess

torch.set_num_threads(1)


def cnn(seed: int = 0, **more) -> Encoder:
    torch.manual_seed(seed)
    encoder = small_cnn(**{"width": 4, **more})
    encoder.module.train()(torch.randn(8, 1, 16, 16))  # batch norms that have seen something
    return encoder


def state(seed: int = 0) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in cnn(seed).module.state_dict().items()}


def loaded(path: Path, **more):
    """The source read from `path`, and the report of loading it into another small CNN."""
    encoder = cnn(seed=1)
    source = from_file(str(path), **more, encoder=encoder)
    return source, load_into(encoder.module, source), encoder


def save(content, path: Path, **more) -> Path:
    torch.save(content, path, **more)
    return path


# Formats


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.bin", "legacy.pth", "w.safetensors", "wrong.pth", "none"])
def test_a_file_of_any_format_is_loaded_whole(tmp_path, name):
    path = tmp_path / name
    if name in ("w.safetensors", "wrong.pth"):  # told by its content, not by its name
        save_file(state(), path)
    else:
        torch.save(state(), path, _use_new_zipfile_serialization=not name.startswith("legacy"))
    source, report, encoder = loaded(path)
    assert hash_state(encoder.module.state_dict()) == source.hash == hash_state(state())
    assert report.line() == "100% of the backbone's parameters loaded"
    assert report.source == source.about == f"file {name}"
    assert (source.preprocess, source.seen, source.seconds) == (None, None, None)


@pytest.mark.parametrize(
    ("encoder", "heads"),
    [
        (lambda: timm_model("resnet10t", 32), ["fc.bias", "fc.weight"]),
        (lambda: torchvision_model("mobilenet_v3_small", 32), ["classifier.3.bias", "classifier.3.weight"]),
    ],
    ids=["timm", "torchvision"],
)
def test_a_library_s_whole_model_is_loaded_but_for_its_classifier(tmp_path, encoder, heads):
    import timm
    from torchvision import models

    mine = encoder()
    family, name = mine.name.split("/")
    whole = timm.create_model(name) if family == "timm" else models.get_model(name)
    report = load_into(
        mine.module, from_file(str(save(whole.state_dict(), tmp_path / "w.pth")), encoder=mine, min_loaded=1.0)
    )
    assert report.share == 1 and report.missing == []
    assert report.skipped == dict.fromkeys(heads[::-1], "not in this model") and "2 skipped (" in report.line()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_cast(tmp_path, dtype):
    half = {name: t.to(dtype) if t.is_floating_point() else t.to(torch.int32) for name, t in state().items()}
    source, report, encoder = loaded(save(half, tmp_path / "half.pth"))
    assert report.share == 1
    expected = {name: half[name].to(tensor.dtype) for name, tensor in state().items()}
    assert {t.dtype for t in source.state.values()} == {torch.float32, torch.int64}
    assert hash_state(encoder.module.state_dict()) == hash_state(expected)


def test_a_checkpoint_of_a_training_is_a_file_of_parameters(tmp_path):
    encoder = cnn()
    optimizer = torch.optim.Adam(encoder.module.parameters())
    encoder.module(torch.randn(2, 1, 16, 16)).sum().backward()
    optimizer.step()
    content = {
        "epoch": 3,
        "note": "x",
        "net": nn.Linear(2, 2).state_dict(),
        "model": {f"module.{name}": nn.Parameter(t) for name, t in state().items() if t.is_floating_point()},
        "optimizer": optimizer.state_dict(),
        5: torch.zeros(2),
        "sparse": torch.eye(2).to_sparse(),
    }
    source, report, _ = loaded(save(content, tmp_path / "c.pt"))
    assert source.about == "file c.pt, names under 'model.module.'"
    assert report.share == 1 and report.skipped == {}
    assert not any(tensor.requires_grad for tensor in source.state.values())


def test_the_model_of_a_run_brings_its_pre_processing_and_what_it_has_seen(tmp_path):
    tensors = {f"backbone.{name}": t for name, t in state().items()} | {"heads.digit.weight": torch.zeros(3, 16)}
    tensors[SEEN] = torch.tensor([3, 9])
    about = {"preprocess": Preprocess(16, None, (0.25,), (0.5,)).as_dict()}
    path = tmp_path / "model.safetensors"
    save_file(tensors, path, metadata={"tlmtl": json.dumps(about)})
    source, report, encoder = loaded(path)
    assert source.preprocess == Preprocess(16, None, (0.25,), (0.5,)) and list(source.seen) == [3, 9]
    assert report.share == 1 and report.skipped == {"heads.digit.weight": "not in this model"}
    assert from_file(str(path), preprocess={"std": 2}, encoder=encoder).preprocess.std == (2.0,)
    save_file(tensors, path, metadata={"tlmtl": "{}"})
    with pytest.raises(ConfigError, match=r"model.safetensors is broken, or no file of parameters: 'preprocess'"):
        loaded(path)


# Names


@settings(max_examples=30, deadline=None)
@given(
    nested=st.lists(st.text("abc_", min_size=1, max_size=6), max_size=3),
    prefix=st.lists(st.sampled_from(["module", "backbone", "_orig_mod", "encoder", "block1", "0", "x"]), max_size=4),
    beside=st.booleans(),
)
def test_any_prefix_is_found(nested, prefix, beside):
    encoder, start = cnn(seed=1), "".join(f"{part}." for part in prefix)
    group = "".join(f"{part}." for part in nested)
    tensors = {start + name: t for name, t in state().items()} | ({"fc.weight": torch.zeros(2)} if beside else {})
    found, how = fitted(WeightFile({group: tensors}, True), encoder, "name", None, "x")
    assert how == (f", names under '{group}{start}'" if group + start else "")
    assert hash_state({name: t for name, t in found.items() if name != "fc.weight"}) == hash_state(state())
    assert ("fc.weight" in found) == beside


def test_a_prefix_chooses_where_several_fit(tmp_path):
    path = save({"model": state(2), "model_ema": {f"module.{n}": t for n, t in state(3).items()}}, tmp_path / "e.pth")
    source, _, _ = loaded(path)
    assert source.hash == hash_state(state(2))
    assert source.about == (
        "file e.pth, names under 'model.' (source.prefix chooses; as many fit under 'model_ema.module.')"
    )
    for prefix in ("model_ema.module.", "model_ema.module"):
        source, _, _ = loaded(path, prefix=prefix)
        assert source.hash == hash_state(state(3)) and source.about == "file e.pth, names under 'model_ema.module.'"
    with pytest.raises(
        ConfigError, match=r"Nothing in .*e.pth under 'source.prefix=ema' fits this model.* Leave source.prefix out"
    ):
        loaded(path, prefix="ema")


def test_what_stands_beside_the_backbone_does_not_pass_for_a_part_of_it(tmp_path):
    tensors = {f"net.{name}": t for name, t in state().items() if name != "block1.1.bias"}
    _, report, _ = loaded(save({**tensors, "block1.1.bias": torch.ones(4)}, tmp_path / "w.pth"))
    assert report.missing == ["block1.1.bias"]
    assert report.skipped == {"block1.1.bias (not under 'net.')": "not in this model"}


def test_other_shapes_and_partial(tmp_path):
    wide = save({f"module.{n}": t for n, t in cnn(width=8).module.state_dict().items()}, tmp_path / "wide.pth")
    with pytest.raises(ConfigError, match=r"file wide.pth, names under 'module.'\) does not fit this model: 0% of the"):
        loaded(wide)
    _, report, _ = loaded(wide, partial=True)
    assert report.share == 1 and report.adapted["block2.0.weight"] == "overlap of (16, 8, 3, 3) and (8, 4, 3, 3)"
    with pytest.raises(ConfigError, match=r"'source.min_loaded' should be a share from 0 to 1. Found 2"):
        loaded(wide, min_loaded=2)


def test_names_that_do_not_fit(tmp_path):
    with pytest.raises(ConfigError) as error:
        loaded(save(nn.Linear(3, 2).state_dict(), tmp_path / "w.pth"))
    assert str(error.value) == (
        f"Nothing in {tmp_path}/w.pth fits this model. Expected names such as block1.0.weight, block1.1.weight, "
        "block1.1.bias (18 in all). Found weight, bias (2 in all). Use the model that the file is of."
    )
    with pytest.raises(ConfigError, match=r"number, order and shape: source.match=order takes them so"):
        loaded(save({f"t{i}": t for i, t in enumerate(state().values())}, tmp_path / "w.pth"))
    with pytest.raises(ConfigError, match=r"'source.match' should be name or order. Found 'size'"):
        loaded(tmp_path / "w.pth", match="size")


def test_order(tmp_path):
    renamed = {f"_{i}.{name.rsplit('.', 1)[1]}": t for i, (name, t) in enumerate(state().items())}
    source, report, _ = loaded(save({**renamed, "fc": torch.zeros(2)}, tmp_path / "w.pth"), match="order")
    assert source.about == "file w.pth, names matched by order" and report.share == 1
    assert report.skipped == {"fc": "not in this model"}
    del source.state["fc"]
    assert source.hash == hash_state(state())

    def order(tensors, text):
        with pytest.raises(ConfigError, match=text):
            loaded(save(tensors, tmp_path / "w.pth"), match="order")

    names = list(renamed)
    swapped = [names[0], names[2], names[1], *names[3:]]  # a norm's weight and bias: their shapes agree
    order({n: renamed[n] for n in swapped}, r"tensor 2 is '_2.bias' \(4,\), expected 'block1.1.weight' \(4,\)")
    order(
        {n: renamed[n] for n in names[::-1]}, r"tensor 1 is '_17.num_batches_tracked' \(\), expected 'block1.0.weight'"
    )
    order({n: renamed[n] for n in names[:-1]}, "expected 18 tensors or more, found 17")
    save_file(renamed, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match=r"which keeps no order: source.match=order needs torch's format"):
        loaded(tmp_path / "w.safetensors", match="order")


def test_values_that_are_not_finite(tmp_path):
    broken = state()
    broken["block2.0.weight"][0, 0, 0, 0] = float("nan")
    with pytest.raises(ConfigError, match=r"'block2.0.weight' of .*w.pth holds values that are not finite"):
        loaded(save(broken, tmp_path / "w.pth"))


def test_a_run_from_a_file_says_where_its_parameters_came_from(main, tmp_path):
    save({"state_dict": {f"module.{n}": t for n, t in state().items()}}, tmp_path / "w.pth")
    said = main(
        "train", "source=file", "source.path=w.pth", "model.width=4", "train.epochs=1", "dataset.labels_per_class=2"
    )
    assert said.code == 0, said.all
    run = tmp_path / "outputs" / "runs" / "latest"
    record = json.loads((run / "run.json").read_text())
    assert record["loaded"]["source"] == "file w.pth, names under 'state_dict.module.'"
    assert record["loaded"]["share"] == 1
    line = "source file w.pth, names under 'state_dict.module.': 100% of the backbone's parameters loaded"
    assert line in (run / "log.txt").read_text()
    other = ["model.width=4", "dataset.split_seed=1"]  # some of the images it was trained on are test images now
    again = main("train", "source=file", f"source.path={run}/model.safetensors", *other)
    refused(again, "of the 809 validation and test images were in the source's training")


# Pre-processing


def test_pre_processing_can_be_changed():
    own = Preprocess(232, 224, (0.1, 0.2, 0.3), (1.0, 1.0, 1.0))
    assert changed(own, {}) == own
    assert changed(own, {"mean": 0.5, "std": [1, 2, 3]}) == Preprocess(232, 224, (0.5,) * 3, (1.0, 2.0, 3.0))
    assert changed(own, {"crop_pct": 0.875, "interpolation": "bicubic"}) == Preprocess(
        256, 224, own.mean, own.std, "bicubic"
    )
    assert changed(Preprocess(16, None, (0.5,), (0.5,)), {"crop_pct": 0.5}) == Preprocess(32, 16, (0.5,), (0.5,))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"means": 1}, r"Unknown key 'source.preprocess.means'. Did you mean 'mean'\? Known: mean, std, interpolation"),
        ({"mean": [0, 1]}, r"'source.preprocess.mean' should be one number or 3, one per channel. Found \[0, 1\]"),
        ({"mean": "x"}, "should be one number or 3"),
        ({"mean": [0, 1, float("nan")]}, "should be one number or 3"),
        ({"std": 0}, "'source.preprocess.std' should be above 0. Found 0"),
        ({"interpolation": "nearest"}, "should be bilinear or bicubic. Found nearest"),
        ({"crop_pct": 87.5}, "should be above 0 and up to 1. Found 87.5"),
        ({"crop_pct": True}, "should be above 0 and up to 1. Found True"),
    ],
)
def test_pre_processing_that_cannot_be(changes, text):
    with pytest.raises(ConfigError, match=text):
        changed(Preprocess(232, 224, (0.1, 0.2, 0.3), (1.0, 1.0, 1.0)), changes)

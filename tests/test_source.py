"""Source parameters: into a model with a report of what was loaded, and refusals of what is no good source."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import tlmtl
from tlmtl.assemble import assemble
from tlmtl.errors import ConfigError
from tlmtl.models.digest import hash_state
from tlmtl.models.heads import LinearHead
from tlmtl.models.small_cnn import small_cnn
from tlmtl.models.source import Source, check_leak, from_run, from_weights, load_into
from tlmtl.preprocess import Preprocess
from tlmtl.sharing.hard import HardSharing

torch.set_num_threads(1)


def cnn(channels=1, seed=0, **more):
    """A small CNN in eval mode whose batch norms have seen something."""
    torch.manual_seed(seed)
    module = small_cnn(**{"width": 8, **more}, channels=channels).module
    module.train()(torch.randn(16, channels, 16, 16))
    return module.eval()


def source_of(module: nn.Module, **more) -> Source:
    return Source({name: t.clone() for name, t in module.state_dict().items()}, about="a test", **more)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of a second, to be a source."""
    root = tmp_path_factory.mktemp("outputs")
    small = ["model.width=4", "train.epochs=1", "dataset.labels_per_class=3", f"output.root={root}", "progress=false"]
    return tlmtl.run(tlmtl.compose(["strategy=from_scratch", *small]))


def test_the_same_model_is_loaded_whole():
    theirs, mine = cnn(seed=0), cnn(seed=1)
    source = source_of(theirs)
    assert hash_state(mine.state_dict()) != source.hash
    report = load_into(mine, source)
    assert hash_state(mine.state_dict()) == source.hash == hash_state(theirs.state_dict())
    assert report.share == 1 and sorted(report.loaded) == sorted(theirs.state_dict())
    assert (report.adapted, report.skipped, report.missing) == ({}, {}, [])
    assert report.line() == "100% of the backbone's parameters loaded"


def test_other_heads_stay_as_they_are():
    encoder = small_cnn(width=8)
    model = HardSharing(encoder, {"new": LinearHead(32, 3), "other": LinearHead(32, 1)})
    heads = hash_state(model.heads.state_dict())
    source = source_of(cnn())
    load_into(model.backbone, source)
    assert hash_state(model.heads.state_dict()) == heads
    assert hash_state(model.backbone.state_dict()) == source.hash


@pytest.mark.parametrize(("theirs", "mine"), [(1, 3), (3, 1)])
def test_other_channels_say_the_same_of_a_grey_picture(theirs, mine):
    old, new = cnn(theirs), cnn(mine, seed=1)
    report = load_into(new, source_of(old))
    assert report.share == 1
    assert report.adapted == {"block1.0.weight": f"{theirs} -> {mine} input channels"}
    grey = torch.randn(4, 1, 16, 16)
    with torch.no_grad():
        expected, found = old(grey.repeat(1, theirs, 1, 1)), new(grey.repeat(1, mine, 1, 1))
    assert expected.std() > 0
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_partial_copies_what_overlaps():
    wide, narrow = cnn(width=8, seed=1), cnn(width=4)
    before = {name: t.clone() for name, t in wide.state_dict().items()}
    with pytest.raises(ConfigError, match=r"Expected at least 90% \(source.min_loaded\).* or source.partial=true"):
        load_into(wide, source_of(narrow))
    assert hash_state(wide.state_dict()) == hash_state(before)  # a refused source leaves no trace
    report = load_into(wide, source_of(narrow, partial=True, min_loaded=0.2))
    size = sum(p.numel() for p in narrow.parameters()) / sum(p.numel() for p in wide.parameters())
    assert report.share == pytest.approx(size) and 0.2 < size < 0.3
    assert report.adapted["block2.0.weight"] == "overlap of (8, 4, 3, 3) and (16, 8, 3, 3)"
    name = "block2.0.weight"
    assert torch.equal(wide.state_dict()[name][:8, :4], narrow.state_dict()[name])
    assert torch.equal(wide.state_dict()[name][8:], before[name][8:])
    assert torch.equal(wide.state_dict()["block1.1.running_mean"][:4], narrow.state_dict()["block1.1.running_mean"])
    with pytest.raises(ConfigError, match=r"2\d% of the backbone's parameters loaded") as error:
        load_into(wide, source_of(narrow, partial=True))
    assert "or source.partial=true" not in str(error.value)


def test_a_report_says_what_was_left_out():
    module = cnn()
    source = source_of(module, min_loaded=0.5)
    source.state["block3.0.weight"] = source.state["block3.0.weight"][:4]
    source.state["fc.weight"] = torch.zeros(2, 2)
    del source.state["block1.1.weight"]
    source.min_loaded = 0.1
    report = load_into(cnn(seed=1), source)
    assert report.skipped == {
        "block3.0.weight": "shape (4, 16, 3, 3), expected (32, 16, 3, 3)",
        "fc.weight": "not in this model",
    }
    assert report.missing == ["block1.1.weight"]
    total = sum(p.numel() for p in module.parameters())
    assert report.share == pytest.approx(1 - (32 * 16 * 9 + 8) / total)
    assert "2 skipped (" in report.line() and "1 left as initialised (block1.1.weight)" in report.line()


def test_a_finished_run_is_a_source(finished):
    source = from_run(str(finished.folder))
    backbone = {n: t for n, t in finished.model.state_dict().items() if n.startswith("backbone.")}
    assert source.hash == hash_state({name.removeprefix("backbone."): t for name, t in backbone.items()})
    assert (len(source.seen), len(source.chosen)) == (30, 359) and source.seconds > 0 and source.preprocess.resize == 16
    start = ["source=run", f"source.path={finished.folder}", "model.width=4"]
    parts = assemble(tlmtl.compose([*start, "strategy=finetune_all"]))
    assert parts.report.share == 1 and hash_state(parts.model.backbone.state_dict()) == source.hash
    scratch = assemble(tlmtl.compose([*start, "strategy=from_scratch"]))
    assert scratch.source is None and hash_state(scratch.model.backbone.state_dict()) != source.hash
    with pytest.raises(ConfigError, match=r"\d+ of the 809 validation and test images were in the source's training"):
        assemble(tlmtl.compose([*start, "strategy=finetune_all", "dataset.split_seed=1"]))
    with pytest.raises(ConfigError, match=r"The source \(run .*does not fit this model: \d+% of the backbone"):
        assemble(tlmtl.compose([*start, "model.width=8"]))


def test_leaks():
    with pytest.raises(ConfigError, match=r"^2 of the 3 validation and test images were in the source's training"):
        check_leak(Source({}, seen=np.array([5, 7, 9])), np.array([9, 1]), np.array([5]))
    assert check_leak(Source({}, seen=np.array([5, 7])), np.array([1]), np.array([2])) is None
    assert check_leak(Source({}), np.array([1]), np.array([2])) is None


def test_what_the_source_was_chosen_by_is_not_tested():
    source = Source({}, seen=np.array([1]), chosen=np.array([5, 7]))
    assert check_leak(source, np.array([5, 7]), np.array([2])) is None  # both may choose by the same images
    with pytest.raises(ConfigError, match="1 of the 2 test images were among those that the source was chosen by"):
        check_leak(source, np.array([2]), np.array([5, 3]))


def test_what_is_no_good_source(tmp_path, finished):
    def refused(text, **more):
        with pytest.raises(ConfigError, match=text):
            from_run(str(tmp_path), **more)

    refused("'source.min_loaded' should be a share from 0 to 1. Found 90", min_loaded=90)
    refused("Expected the folder of a run, found no run.json in .*source.path")
    (tmp_path / "run.json").write_text("{")
    refused("run.json is broken: .* Choose another run")
    (tmp_path / "run.json").write_text("[]")
    refused("run.json is broken: ")
    (tmp_path / "run.json").write_text(json.dumps({"status": "failed"}))
    refused(r"is not finished \(status failed\): a source should be")
    (tmp_path / "run.json").write_text(json.dumps({"status": "done"}))
    refused("Expected a model in .*, found no model.safetensors")
    whole = (finished.folder / "model.safetensors").read_bytes()
    for broken in (b"", b"not a model", whole[: len(whole) // 2]):
        (tmp_path / "model.safetensors").write_bytes(broken)
        refused("model.safetensors is broken: ")
    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    refused("model.safetensors is broken: ")  # somebody else's, without our description
    for about in ("{}", '{"preprocess": {"mean": [0], "std": [1]}}'):
        save_file({"backbone.w": torch.zeros(2)}, tmp_path / "model.safetensors", metadata={"tlmtl": about})
        refused("model.safetensors is broken: ")
    about = json.dumps({"preprocess": Preprocess(8, None, (0.5,), (0.5,)).as_dict()})
    save_file({"heads.w": torch.zeros(2)}, tmp_path / "model.safetensors", metadata={"tlmtl": about})
    refused("has no backbone in its model.safetensors")


def test_sources_that_are_not_there():
    with pytest.raises(ConfigError, match=r"strategy=linear_probe starts from source parameters, but source=none"):
        assemble(tlmtl.compose(["source=none"]))
    with pytest.raises(ConfigError, match=r"needs a model of torchvision or timm, such as model=resnet18"):
        from_weights(encoder=small_cnn())

    def fetch(error):
        def raises(_name):
            raise error

        encoder = small_cnn()
        encoder.fetch = raises
        return encoder

    with pytest.raises(ConfigError, match=r"could not be fetched \(OSError: no network\).* use source=pretrain"):
        from_weights(encoder=fetch(OSError("no network")))
    with pytest.raises(ConfigError, match=r"'source.weights=V9' is not among the weights of this model: 'V9'"):
        from_weights("V9", encoder=fetch(KeyError("V9")))

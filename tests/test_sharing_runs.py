"""Runs of every sharing, from the command to the folder: rows, models built again, sources for one task."""

import numpy as np
import pytest
import torch

import tlmtl
from tlmtl.assemble import assemble
from tlmtl.errors import ConfigError
from tlmtl.predict.model import load
from tlmtl.presets import packaged_folder, presets
from tlmtl.pretrain import source_config

torch.set_num_threads(1)
SHARINGS = [preset.name for preset in presets("sharing", [packaged_folder()])]
OWN = ["none", "cross_stitch"]  # an encoder for each task
TASKS = ["left", "right", "sum"]
SMALL = [
    "+experiment=two_digits",
    "dataset.train=200",
    "dataset.val=30",
    "dataset.test=30",
    "dataset.labels_per_class=3",
]
SMALL += ["model.width=4", "train.epochs=2st", "train.evaluate_every=1st", "progress=false"]
FIRST = ["strategy=multitask", "source.train.epochs=1st"]


def run(root, *overrides: str):
    return tlmtl.run(tlmtl.compose([*SMALL, f"output.root={root}", *overrides]))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of each sharing, all tasks at once."""
    root = tmp_path_factory.mktemp("sharing")
    return {sharing: run(root, *FIRST, f"sharing={sharing}") for sharing in SHARINGS}


@pytest.mark.parametrize("sharing", SHARINGS)
def test_a_run_of_every_sharing(runs, sharing):
    rows = runs[sharing].rows
    assert list(rows["task"]) == TASKS
    assert set(rows["sharing"].fillna("none")) == {sharing} and set(rows["status"]) == {"done"}
    assert not rows["overrides"].str.contains("sharing").any() and set(rows["steps"]) == {2}
    assert (rows["parameters"] >= runs["hard"].rows["parameters"]).all()
    assert (rows["parameters"] == rows["parameters_trained"]).all() and np.isfinite(rows["test/loss"]).all()


@pytest.mark.parametrize("sharing", SHARINGS)
def test_a_model_is_built_again_from_its_folder(runs, sharing):
    trained, model, inputs = load(runs[sharing].folder, []).model, runs[sharing].model.eval(), torch.randn(5, 1, 16, 28)
    first, second = (one(inputs, TASKS).heads for one in (trained, model))
    for task in TASKS:
        torch.testing.assert_close(first[task], second[task])


@pytest.mark.parametrize("sharing", SHARINGS)
def test_from_several_tasks_to_one(runs, sharing, tmp_path):
    start = ["source=run", f"source.path={runs[sharing].folder}", "tasks=[left]"]
    with pytest.raises(ConfigError, match=r"'source.task' should be a task of .*: left, right, sum. Found 'top'"):
        run(tmp_path, *start, "strategy=linear_probe", "source.task=top")
    if sharing in OWN:
        with pytest.raises(ConfigError, match=r"encoder of its own: left, right, sum. Choose one, .* source.task=left"):
            run(tmp_path, *start, "strategy=linear_probe")
        start.append("source.task=right")
    prefix = "backbone.right." if sharing in OWN else "backbone."
    theirs = {n.removeprefix(prefix): t for n, t in runs[sharing].model.state_dict().items() if n.startswith(prefix)}
    probe, tuned = (run(tmp_path, *start, f"strategy={strategy}") for strategy in ("linear_probe", "finetune_all"))
    mine = probe.model.backbone.state_dict()
    assert set(mine) == set(theirs) and all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())
    assert not torch.equal(tuned.model.backbone.block1[0].weight, theirs["block1.0.weight"])
    assert list(probe.rows["task"]) == list(tuned.rows["task"]) == ["left"]


def test_one_encoder_needs_no_choosing(tmp_path):
    alone = run(tmp_path, "strategy=from_scratch", "sharing=none", "tasks=[left]")
    assert "backbone.left.block1.0.weight" in alone.model.state_dict()
    probe = run(tmp_path, "source=run", f"source.path={alone.folder}", "strategy=linear_probe", "tasks=[right]")
    assert torch.equal(probe.model.backbone.block1[0].weight, alone.model.backbone["left"].block1[0].weight)


@pytest.mark.parametrize("strategy", ["linear_probe", "staged"])
@pytest.mark.parametrize("sharing", SHARINGS)
def test_backbones_freeze_and_what_a_sharing_adds_trains(sharing, strategy):
    parts = assemble(
        tlmtl.compose([*SMALL, f"strategy={strategy}", f"sharing={sharing}", "tasks=all"]), with_source=False
    )
    parts.groups.begin(0, first=True)
    trains = {name for name, parameter in parts.model.named_parameters() if parameter.requires_grad}
    assert trains == {name for name, _ in parts.model.named_parameters() if not name.startswith("backbone.")}
    norms = [m for n, m in parts.model.named_modules() if n.startswith("backbone.") and "BatchNorm" in type(m).__name__]
    assert norms and not any(norm.training for norm in norms)


def test_a_strategy_may_choose_the_sharing():
    def chosen(*overrides):
        cfg = tlmtl.compose(["dataset=two_digits", *overrides])
        return cfg.composed.choices["sharing"], cfg.sharing["_target_"].rsplit(".", 1)[-1], cfg.tasks

    assert chosen("strategy=separate") == ("none", "Separate", "all")
    assert chosen("strategy=separate", "sharing=mmoe") == ("mmoe", "MMoE", "all")
    assert chosen("strategy=multitask") == ("hard", "HardSharing", "all")
    assert chosen("strategy=linear_probe", "sharing=none") == ("none", "Separate", "default")


def test_every_sharing_starts_from_the_same_source():
    targets = {source_config(tlmtl.compose([f"sharing={s}"])).sharing["_target_"] for s in SHARINGS}
    assert targets == {"tlmtl.sharing.hard.HardSharing"}


def test_a_backbone_that_cannot_be_cut_is_told_before_the_run(main, tmp_path):
    said = main(
        "train", "-m", "dataset=two_digits", "strategy=from_scratch", "tasks=all", "sharing=hard,mtan", "model=timm",
        "model.name=vit_tiny_patch16_224", "model.image_size=32", "progress=false",
    )  # fmt: skip
    assert said.code == 2 and "'sharing=mtan' works between the stages of a backbone" in said.err, said.all
    assert "sharing=hard, none, mmoe or ple" in said.err and "Traceback" not in said.err
    assert not list((tmp_path / "outputs").rglob("results.csv"))

"""What tasks share and what they don't: separate models in one run equal runs of their own; identity of runs and baselines."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from test_resume import StopAt, decided, parameters

import tlmtl
from tlmtl import api, checkpoint, identity, job, pretrain
from tlmtl.assemble import assemble, setup
from tlmtl.branches import Branches
from tlmtl.errors import ConfigError
from tlmtl.evaluation import Predictions, measure, selection_score
from tlmtl.hardware import machine
from tlmtl.loop import fit
from tlmtl.models.heads import LinearHead
from tlmtl.models.small_cnn import small_cnn
from tlmtl.presets import packaged_folder
from tlmtl.results import RunFolder
from tlmtl.sharing.hard import HardSharing
from tlmtl.tasks.regression import Regression
from tlmtl.training import State, Watch

TASKS = ["left", "right", "sum"]
QUICK = [
    "+experiment=two_digits",
    "model.width=8",
    "dataset.labels_per_class=4",
    "progress=false",
    "source.train.epochs=1st",
]


def compose(*more: str):
    return tlmtl.compose([*QUICK, *more])


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(
            ["train.clip=0.05", "train.early_stopping=2ep", "train.epochs=14", "train.evaluate_every=1ep"],
            marks=pytest.mark.slow,
        ),
        ["term=[l2_sp]", "train.epochs=4", "train.ema=0.9", "optimizer=sgd", "optimizer.lr=0.005"],
        pytest.param(
            ["term=[distill_features]", "train.epochs=3", "train.accumulate=2", "dataset.augment=digits"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_separate_models_equal_runs_of_their_own(more, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    together = api.run(compose("strategy=separate", *more))
    history = pd.read_csv(together.folder / "history.csv")
    model = load_file(together.folder / "model.safetensors")
    stopped = set()
    for task in TASKS:
        alone = api.run(compose("strategy=finetune_all", f"tasks=[{task}]", *more))
        mine, theirs = together.rows.set_index("task").loc[task], alone.rows.iloc[0]
        measured = [name for name in alone.rows if name.startswith(("val/", "test/")) and pd.notna(theirs[name])]
        assert len(measured) >= 6
        for name in measured:
            assert mine[name] == pytest.approx(theirs[name], abs=1e-6, rel=1e-5), name
        assert mine.labels_seen == theirs.labels_seen or "train.early_stopping=2ep" in more
        own = pd.read_csv(alone.folder / "history.csv")
        for name in ("loss", "score"):
            mask = (history.split == "val") & (history.name == name) & (history.task == task)
            expected = own[(own.split == "val") & (own.name == name)]
            assert history[mask].step.tolist() == expected.step.tolist()
            assert history[mask].value.tolist() == pytest.approx(expected.value.tolist(), abs=1e-6, rel=1e-5)
        stopped.add(own.step.max())
        for name, tensor in load_file(alone.folder / "model.safetensors").items():
            if name.startswith(("backbone.", "heads.")):
                there = name.replace("backbone.", f"backbone.{task}.")
                torch.testing.assert_close(model[there].float(), tensor.float(), atol=1e-6, rtol=1e-5)
        assert identity.baseline_id(compose("strategy=separate", *more)) == identity.baseline_id(
            compose("strategy=finetune_all", f"tasks=[{task}]", *more)
        )
    if "train.early_stopping=2ep" in more:
        assert len(stopped) > 1, "the tasks should stop at different steps, else this shows nothing"


@pytest.mark.slow
def test_what_cannot_matter_makes_no_other_run():
    def same(one: list[str], other: list[str]) -> bool:
        return identity.config_hash(compose(*one)) == identity.config_hash(compose(*other))

    assert same(["strategy=separate"], ["strategy=separate", "weighting=uncertainty"])
    assert not same(["strategy=multitask"], ["strategy=multitask", "weighting=uncertainty"])
    assert same(["tasks=[left]"], ["tasks=[left]", "weighting=famo", "sharing=none"])
    assert not same(["tasks=[left]"], ["tasks=[left]", "sharing=mmoe"])
    assert same(["weighting=famo"], ["weighting=famo", "weighting.level=features"])
    assert not same(["weighting=upgrad"], ["weighting=upgrad", "weighting.level=features"])
    assert not same(["strategy=multitask"], ["strategy=multitask", "fusion=average", "fusion.tasks=[left,right]"])


@pytest.mark.slow
def test_a_baseline_differs_in_tasks_sharing_and_weighting_alone():
    first = identity.baseline_id(compose("strategy=multitask"))
    for same in (
        ["strategy=separate"],
        ["strategy=finetune_all", "tasks=[left]"],
        ["strategy=multitask", "weighting=static", "dataset.tasks.left.weight=3"],
        ["strategy=multitask", "sharing=mmoe", "seed=7"],
        ["strategy=multitask", "dataset.tasks.left.primary=false"],
    ):
        assert identity.baseline_id(compose(*same)) == first, same
    for other in (
        ["strategy=linear_probe"],
        ["strategy=multitask", "optimizer.lr=0.5"],
        ["strategy=multitask", "term=[l2_sp]"],
    ):
        assert identity.baseline_id(compose(*other)) != first, other


def test_auxiliary_tasks_and_tasks_without_labels_choose_no_epoch():
    model = HardSharing(small_cnn(4), {name: LinearHead(16, 1) for name in "abc"})
    tasks = {name: Regression(name, 0.0, 1.0, ["mae"], primary=name != "c") for name in "abc"}
    branches = Branches(model)
    assert branches.score("", tasks, {"a": 0.5, "b": 0.1, "c": -9.0}) == pytest.approx(0.3)
    assert branches.score("", tasks, {"a": 0.5, "b": math.nan, "c": -9.0}) == 0.5
    assert branches.score("", tasks, {"a": math.nan, "b": math.nan, "c": 1.0}) == -math.inf
    auxiliary = {name: replace(task, primary=False) for name, task in tasks.items()}
    assert branches.score("", auxiliary, {"a": 0.5, "b": 0.1, "c": 0.6}) == pytest.approx(0.4)


def test_a_task_whose_validation_labels_are_equal_does_not_drown_the_others():
    task = Regression("a", 0.0, 1.0, ["mae"])
    for target, expected in ((torch.full((4,), 0.5), 1 - 0.25), (torch.tensor([0.0, 1, 0, 1]), 1 - 0.5 / 0.25)):
        said = Predictions({"a": torch.zeros(4, 1)}, {"a": target}, {"a": torch.ones(4, dtype=torch.bool)})
        assert selection_score(task, said, measure(task, said)) == pytest.approx(expected)


def test_a_loss_that_is_no_number_chooses_no_epoch():
    task = Regression("a", 0.0, 1.0, ["mae"])
    said = Predictions({"a": torch.full((2, 1), math.nan)}, {"a": torch.tensor([0.0, 1])}, {"a": torch.ones(2).bool()})
    assert selection_score(task, said, {"loss": math.nan}) == -math.inf


def test_weights_that_cannot_matter_are_neither_refused_nor_other_runs():
    heavy = ["dataset.tasks.left.weight=2"]
    for words in (["strategy=separate"], ["tasks=[left]"]):
        parts = assemble(compose(*words, *heavy, "weighting=uncertainty"), with_source=False)
        assert set(parts.weighting.backward({}, None, [])) == set() and parts.weighting.scalar
        assert identity.config_hash(compose(*words, *heavy)) == identity.config_hash(compose(*words))
    with pytest.raises(ConfigError, match=r"Unknown key 'weighting.temprature'"):
        assemble(compose("strategy=separate", "weighting=dwa", "+weighting.temprature=1"), with_source=False)


def test_a_compiled_model_has_no_features_to_look_at():
    words = ["strategy=multitask", "weighting=mgda", "weighting.level=features", "hardware.compile=true"]
    with pytest.raises(ConfigError, match="needs features that a compiled model hides"):
        assemble(compose(*words), with_source=False)


@pytest.mark.parametrize("name", ["mgda", "gradnorm"])
def test_with_a_frozen_encoder_a_weighting_is_the_sum_and_says_so(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = [api.run(compose("strategy=linear_probe", f"weighting={one}", "train.epochs=3st")) for one in ("sum", name)]
    assert parameters(ran[0].folder) == parameters(ran[1].folder)
    told = [(one.folder / "log.txt").read_text().count("the weighting is a plain sum until") for one in ran]
    assert told == [0, 1]


@pytest.mark.parametrize("name", ["uncertainty", "famo", "gradnorm", "upgrad"])
def test_one_task_trains_as_without_a_weighting(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfgs = [compose("tasks=[left]", f"weighting={one}", "train.epochs=4st") for one in ("sum", name)]
    for place, cfg in zip(("plain", "weighed"), cfgs, strict=True):
        job.execute(pretrain.with_source(cfg), tmp_path / place, place)
    assert parameters(tmp_path / "plain") == parameters(tmp_path / "weighed")


def rows_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "results.csv").open()))


def test_rows_name_what_was_weighed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = ["train.epochs=2st", "weighting.level=features"]
    ran = [
        api.run(compose("strategy=multitask", "weighting=upgrad", *short)),
        api.run(compose("strategy=multitask", "weighting=gls", *short)),
        api.run(compose("strategy=separate", "weighting=upgrad", *short)),
    ]
    told = [rows_of(one.folder)[0] for one in ran]
    assert [(row["sharing"], row["weighting"]) for row in told] == [("hard", "upgrad"), ("hard", "gls"), ("none", "")]
    assert ["weighting.level" in row["overrides"] for row in told] == [True, False, False]
    assert [bool(row["baseline_id"]) for row in told] == [True] * 3 and len({row["baseline_id"] for row in told}) == 1


def test_the_history_tells_each_task_weight(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = api.run(compose("strategy=multitask", "weighting=static", "dataset.tasks.sum.weight=0.5", "train.epochs=2st"))
    history = pd.read_csv(ran.folder / "history.csv")
    weights = history[(history.split == "train") & (history.name == "weight")]
    assert dict(zip(weights.task, weights.value, strict=False)) == {"left": 1.0, "right": 1.0, "sum": 0.5}


def test_labels_seen_counts_what_gave_a_loss(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = compose("strategy=multitask", "train.epochs=3")
    parts = assemble(cfg, with_source=False)
    there = parts.data["target"].mask["left"]
    there[parts.data["target"].splits["train"][::2]] = False
    made = setup(parts, machine(cfg.hardware, 1))
    state = State()
    fit(made, state, Watch())
    assert state.labels == {"left": 3 * 20, "right": 3 * 40, "sum": 3 * 40} and state.examples == 3 * 40


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("sum", "uncertainty", "famo", "pcgrad") else pytest.mark.slow)
        for name in sorted(path.stem for path in (packaged_folder() / "weighting").glob("*.yaml"))
    ],
)
def test_a_run_that_was_stopped_ends_the_same_with_every_weighting(name, tmp_path):
    short = ["train.epochs=6st", "train.evaluate_every=3st", "train.checkpoint_every=1st", "weighting.level=features"]
    cfg = pretrain.with_source(compose("strategy=multitask", f"weighting={name}", "train.accumulate=2", *short))
    job.execute(cfg, tmp_path / "whole", "whole")
    with pytest.raises(KeyboardInterrupt):
        job.execute(cfg, tmp_path / "stopped", "stopped", StopAt(4))
    torch.manual_seed(1)
    job.execute(cfg, tmp_path / "stopped", "stopped")
    assert decided(tmp_path / "stopped") == decided(tmp_path / "whole")
    assert parameters(tmp_path / "stopped") == parameters(tmp_path / "whole")


@pytest.mark.parametrize(
    ("words", "at"),
    [
        (["strategy=multitask", "weighting=upgrad", "weighting.update_every=3", "train.epochs=7st"], 5),
        (["strategy=multitask", "weighting=gradnorm", "sharing=mmoe", "train.epochs=7st"], 5),
        (["strategy=multitask", "sharing=cross_stitch", "term=[deep_supervision,supcon]", "train.epochs=7st"], 5),
        (["strategy=separate", "train.epochs=14", "train.early_stopping=2ep", "optimizer.lr=0.02"], 26),
    ],
)
def test_a_run_that_was_stopped_ends_the_same(words, at, tmp_path):
    cfg = pretrain.with_source(compose("train.evaluate_every=1ep", "train.checkpoint_every=1st", *words))
    job.execute(cfg, tmp_path / "whole", "whole")
    with pytest.raises(KeyboardInterrupt):
        job.execute(cfg, tmp_path / "stopped", "stopped", StopAt(at))
    if "strategy=separate" in words:  # one model rests already, the others train on
        resting = checkpoint.load(RunFolder(tmp_path / "stopped").checkpoints()[0])["state"]["stopped"]
        assert 0 < len(resting) < 3
    torch.manual_seed(1)
    job.execute(cfg, tmp_path / "stopped", "stopped")
    assert decided(tmp_path / "stopped") == decided(tmp_path / "whole")
    assert parameters(tmp_path / "stopped") == parameters(tmp_path / "whole")

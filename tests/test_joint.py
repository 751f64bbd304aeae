"""Several data sets in one run: how parts take turns, what they are called, and what is refused."""

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from own import picture
from test_resume import StopAt, decided, parameters
from torch import nn

import tlmtl
from tlmtl import api, job, pretrain
from tlmtl.assemble import assemble, setup
from tlmtl.compare.groups import summarise
from tlmtl.data.digits import digits
from tlmtl.data.joint import tasks_of
from tlmtl.data.mnist5k import mnist5k
from tlmtl.data.sampling import SAMPLINGS, Sampling
from tlmtl.data.streams import plan
from tlmtl.errors import ConfigError
from tlmtl.hardware import machine
from tlmtl.models.statistics import Statistics
from tlmtl.predict.engine import Engine
from tlmtl.predict.model import load

JOINT = ["dataset=joint", "strategy=multitask", "model.width=4", "progress=false", "source.train.epochs=1st"]
SIZES = {"a": 50, "b": 7, "c": 200}


def compose(*more: str):
    return tlmtl.compose([*JOINT, *more])


@given(
    how=st.sampled_from(sorted(SAMPLINGS)),
    sizes=st.dictionaries(st.sampled_from("abcd"), st.integers(1, 60), min_size=2, max_size=4),
    batch_size=st.integers(1, 20),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 3),
)
@settings(deadline=None, max_examples=60)
def test_a_plan_is_a_pure_function_of_batches_of_nearly_equal_length(how, sizes, batch_size, seed, epoch):
    sampling = Sampling(how, 3.0)
    drawn = sampling.plan(sizes, batch_size, seed, epoch)
    again = sampling.plan(sizes, batch_size, seed, epoch)
    assert [{n: i.tolist() for n, i in step.items()} for step in drawn] == [
        {n: i.tolist() for n, i in step.items()} for step in again
    ]
    assert len(drawn) == sampling.steps(sizes, batch_size)
    for name, size in sizes.items():
        lengths = [len(step[name]) for step in drawn if name in step]
        assert all(0 < n <= batch_size for n in lengths) and (not lengths or max(lengths) - min(lengths) <= 1)
        assert all(0 <= int(i) < size for step in drawn if name in step for i in step[name])


def taken(how: str, temperature: float = 2.0, epochs: int = 1) -> Counter[str]:
    """How many examples of each part so many epochs hold."""
    found: Counter[str] = Counter()
    for epoch in range(epochs):
        for step in Sampling(how, temperature).plan(SIZES, 10, 0, epoch):
            assert len(step) == (3 if how == "longest" else 1)
            found.update({name: len(indices) for name, indices in step.items()})
    return found


def test_proportional_goes_through_every_part_once():
    assert taken("proportional") == SIZES
    drawn = Sampling("proportional").plan(SIZES, 10, 0, 0)
    for name, size in SIZES.items():
        assert sorted(torch.cat([step[name] for step in drawn if name in step]).tolist()) == list(range(size))
    turns = [next(iter(step)) for step in drawn]
    assert turns != sorted(turns)  # mixed, not one part after another


def test_round_robin_and_longest_start_short_parts_again():
    drawn = Sampling("round_robin").plan(SIZES, 10, 0, 0)
    assert [next(iter(step)) for step in drawn][:6] == ["a", "b", "c", "a", "b", "c"] and len(drawn) == 5 + 1 + 20
    following = Sampling("round_robin").plan(SIZES, 10, 0, 1)
    assert next(iter(following[0])) == "c"  # 26 steps went before: the turn goes on
    assert taken("longest") == {"a": 200, "b": 140, "c": 200}
    passes = torch.cat([step["a"] for step in Sampling("longest").plan(SIZES, 10, 0, 0)]).split(50)
    assert all(sorted(one.tolist()) == list(range(50)) for one in passes)
    assert len({tuple(one.tolist()) for one in passes}) == 4  # each pass in an order of its own


def test_uniform_and_temperature_draw_parts_as_they_say():
    steps = dict.fromkeys(SIZES, 0)
    for epoch in range(200):
        for step in Sampling("uniform").plan(SIZES, 10, 0, epoch):
            steps[next(iter(step))] += 1
    assert np.array(list(steps.values())) / 5200 == pytest.approx(1 / 3, abs=0.02)
    likely = np.sqrt(list(SIZES.values()))
    steps = dict.fromkeys(SIZES, 0)
    for epoch in range(200):
        for step in Sampling("temperature", 2.0).plan(SIZES, 10, 0, epoch):
            steps[next(iter(step))] += 1
    assert np.array(list(steps.values())) / 5200 == pytest.approx(likely / likely.sum(), abs=0.02)


def test_a_part_alone_is_drawn_as_a_data_set_alone():
    alone = plan({"target": 50}, 10, 3, 2)
    order = torch.cat([step["target"] for step in alone])
    parts = torch.cat([step["a"] for step in Sampling("proportional").plan({"a": 50, "b": 7}, 10, 3, 2) if "a" in step])
    assert sorted(order.tolist()) == sorted(parts.tolist())


def test_what_an_epoch_is_is_told():
    assert Sampling("proportional").line(SIZES, 10) == (
        "sampling proportional: an epoch is 26 steps, every part once, its batches in random turn with those of the others "
        "(examples: a 50, b 7, c 200)"
    )
    assert "likely as size^(1/4)" in Sampling("temperature", 4).line(SIZES, 10)
    assert "an epoch is 20 steps, one pass through the longest part" in Sampling("longest").line(SIZES, 10)


def test_tasks_are_called_by_part_and_take_settings_there():
    cfg = compose("+dataset.tasks.mnist5k_digit.weight=2", "weighting=static", "tasks=all")
    assert cfg.dataset.default_tasks == ["digits_digit", "mnist5k_digit"]
    parts = assemble(cfg, with_source=False)
    assert list(parts.tasks) == ["digits_digit", "digits_parity", "digits_ink", "mnist5k_digit"]
    assert parts.tasks["mnist5k_digit"].weight == 2 and parts.tasks["digits_digit"].weight == 1
    assert parts.sizes == {"digits": 50, "mnist5k": 4000}
    assert (parts.units.steps_per_epoch, parts.units.examples_per_epoch) == (2 + 125, 4050)
    chosen = assemble(compose("tasks=[mnist5k_digit]"), with_source=False)
    assert list(chosen.data) == ["mnist5k"] and list(chosen.tasks) == ["mnist5k_digit"]


def test_labels_per_class_is_that_of_every_part_or_each_its_own():
    both = assemble(compose("dataset.labels_per_class=3"), with_source=False)
    assert both.sizes == {"digits": 30, "mnist5k": 30}
    own = assemble(compose("dataset.parts=[digits,{mnist5k:{labels_per_class:7}}]"), with_source=False)
    assert own.sizes == {"digits": 50, "mnist5k": 70}


def test_one_data_set_can_be_two_parts_under_other_names():
    parts = "dataset.parts=[{one:{from:digits,split_seed:0}},{two:{from:two_digits,labels_per_class:1}}]"
    cfg = compose(parts, "tasks=default")
    parts = assemble(cfg, with_source=False)
    assert list(parts.tasks) == ["one_digit", "two_left", "two_right", "two_sum"]
    shapes = {n: s.shape() for n, s in setup(parts, machine(cfg.hardware, 1)).streams.items()}
    assert shapes == {"one": (1, 16, 16), "two": (1, 16, 28)}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("dataset.parts=[digits,mnist6k]", "names 'mnist6k', which is no data set for a part. Did you mean 'mnist5k'?"),
        ("dataset.parts=[digits,digits]", "names 'digits' twice"),
        ("dataset.parts=[]", "should list data sets"),
        ("dataset.parts=[joint]", "names 'joint', which is no data set for a part"),
        ("dataset.parts=[3]", "should list names of data sets"),
        ("dataset.parts=[{digits:{labels_per_clas:2}}]", "Unknown key 'dataset.labels_per_clas'"),
        ("dataset.sampling=proportionate", "'dataset.sampling' should be one of proportional"),
        ("dataset.temperature=0", "'dataset.temperature' should be above 0. Found 0.0."),
        ("+dataset.tasks.digits_digt.weight=2", "'dataset.tasks.digits_digt' is a task of no part"),
        ("tasks=[digit]", "Unknown task 'digit'"),
        ("+dataset.split_seed=1", "'dataset.split_seed' is a setting of a part"),
        ("evaluate.also=[mnist5k]", "'evaluate.also' tests the model of one data set on others"),
        ("dataset.parts=[{table:{}}]", "'dataset.path' has no value"),
    ],
)
def test_what_is_refused(override, said):
    with pytest.raises(ConfigError) as error:
        assemble(compose(override), with_source=False)
    assert said in str(error.value)


def test_two_tasks_of_one_name_are_refused():
    parts = "dataset.parts=[{digits:{}},{digits_left:{from:digits}},{digits_x:{from:two_digits}}]"
    cfg = compose(parts)
    assert "digits_left_digit" in cfg.dataset.tasks
    with pytest.raises(ConfigError, match=r"'a_b_c' here\. Give one of the parts another name"):
        tasks_of({}, parts={"a": {"tasks": {"b_c": {}}}, "a_b": {"tasks": {"c": {}}}})


def test_held_out_images_of_one_part_may_not_be_trained_on_in_another():
    twice = "dataset.parts=[digits,{again:{from:digits,split_seed:1,labels_per_class:null}}]"
    with pytest.raises(
        ConfigError, match=r"validation and test images of the part 'again' are training images of 'digits'"
    ):
        assemble(compose(twice), with_source=False)


def test_features_of_different_inputs_have_no_level():
    with pytest.raises(ConfigError, match="the tasks of a joint data set have different inputs"):
        assemble(compose("weighting=upgrad", "weighting.level=features"), with_source=False)
    assert assemble(compose("weighting=upgrad"), with_source=False).weighting.level == "parameters"


@pytest.mark.parametrize("how", ["proportional", "longest"])
def test_a_run_reports_each_part(how, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = ["train.epochs=9st", "train.evaluate_every=3st", "dataset.labels_per_class=2", f"dataset.sampling={how}"]
    ran = api.run(compose("tasks=[digits_digit,mnist5k_digit,digits_ink]", *short))
    rows = ran.rows.set_index("task")
    assert set(rows.index) == {"digits_digit", "digits_ink", "mnist5k_digit"} and (rows.dataset == "joint").all()
    # 20 examples of each part in one batch: an epoch is two steps, or one that holds both
    seen = {
        "proportional": {"digits_digit": 100, "mnist5k_digit": 80},
        "longest": {"digits_digit": 180, "mnist5k_digit": 180},
    }
    totals = rows.labels_seen[["digits_digit", "mnist5k_digit"]]
    assert totals.sum() == sum(seen[how].values()) and (rows.examples_seen == totals.sum()).all()
    assert rows.labels_seen["digits_ink"] == rows.labels_seen["digits_digit"]
    assert rows["test/accuracy"].notna().tolist() == rows.kind.eq("classification").tolist()


def test_interrupted_at_any_step_it_ends_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = ["train.epochs=8st", "train.evaluate_every=2st", "train.checkpoint_every=1st", "dataset.labels_per_class=2"]
    cfg = pretrain.with_source(compose("dataset.sampling=uniform", "weighting=dwa", "train.ema=0.9", *short))
    job.execute(cfg, tmp_path / "whole", "whole")
    for at in (1, 3, 7):
        with pytest.raises(KeyboardInterrupt):
            job.execute(cfg, tmp_path / f"{at}", "stopped", StopAt(at))
        torch.manual_seed(at)
        job.execute(cfg, tmp_path / f"{at}", "stopped")
        assert decided(tmp_path / f"{at}") == decided(tmp_path / "whole")
        assert parameters(tmp_path / f"{at}") == parameters(tmp_path / "whole")


def test_statistics_are_of_the_part_whose_batch_it_is():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU())
    model.statistics = Statistics(model, ["a", "b"])
    batches = {"a": torch.randn(64, 3), "b": 5 + 3 * torch.randn(64, 3)}
    for _ in range(60):
        for part, batch in batches.items():
            with model.statistics.of(part):
                nn.Sequential.forward(model[:3], batch)
    model.eval()
    for part, batch in batches.items():
        with model.statistics.of(part):
            normal = model[1](model[0](batch))
        assert normal.mean(0).abs().max() < 0.05 and (normal.std(0) - 1).abs().max() < 0.05
    wrong = model[1](model[0](batches["b"]))  # outside: those of the first part
    assert wrong.mean(0).abs().max() > 1
    state = model.state_dict()
    assert {"1.running_mean", "statistics.a.1/running_mean", "statistics.b.1/running_mean"} <= set(state)
    assert torch.equal(state["1.running_mean"], state["statistics.a.1/running_mean"])
    assert sum(p.numel() for p in model.parameters()) == 3 * 4 + 4 + 8  # statistics are no parameters


@pytest.mark.parametrize("sharing", ["hard", "none", "cross_stitch", "mtan", "mmoe", "ple"])
def test_a_model_of_parts_says_the_same_when_it_is_built_again(sharing, tmp_path, monkeypatch):
    """Parts and tasks in an order other than the alphabet's, as a saved model lists them."""
    monkeypatch.chdir(tmp_path)
    ran = api.run(
        compose(
            "dataset.parts=[mnist5k,digits]", f"sharing={sharing}", "dataset.labels_per_class=2", "train.epochs=4st",
            "tasks=[mnist5k_digit,digits_digit,digits_ink]",
        )
    )  # fmt: skip
    trained = load(ran.folder, [])
    said = pd.read_parquet(ran.folder / "predictions.parquet")
    for part, examples in (("digits", digits()), ("mnist5k", mnist5k())):
        rows = said[said.task.eq(f"{part}_digit") & said.split.eq("test")].head(20)
        where = torch.tensor([examples.ids.index(name.removeprefix(f"{part}/")) for name in rows.id])
        again = Engine(trained)(examples.images.read(where, trained.preprocess))[f"{part}_digit"]
        np.testing.assert_allclose(np.stack(rows.output), again.numpy(), atol=1e-4)


def test_parts_of_different_shapes_have_no_prediction(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = api.run(compose("dataset.parts=[digits,two_digits]", "dataset.labels_per_class=2", "train.epochs=1st"))
    with pytest.raises(ConfigError, match=r"parts whose images differ in shape \(digits 16x16, two_digits 16x28\)"):
        load(ran.folder, [])


@pytest.mark.slow
def test_a_single_task_of_a_joint_data_set_is_a_baseline(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = ["dataset.labels_per_class=2", "train.epochs=2ep", "train.evaluate_every=1ep"]
    tasks = ["digits_digit", "mnist5k_digit"]
    alone = [api.run(compose(f"tasks=[{task}]", *short)).rows for task in tasks]
    both = api.run(compose(f"tasks=[{','.join(tasks)}]", *short)).rows
    for rows, task in zip(alone, tasks, strict=True):
        for column in ("baseline_id", "data_hash", "subset_hash"):
            assert rows[column].item() == both.set_index("task")[column][task], column
    groups = summarise(pd.concat([*alone, both])).groups
    assert groups[groups.tasks.str.contains("+", regex=False)].delta.notna().all()


def test_durations_in_examples_count_what_is_drawn():
    for how in SAMPLINGS:
        drawn = [
            sum(len(i) for step in Sampling(how).plan(SIZES, 10, 0, epoch) for i in step.values())
            for epoch in range(50)
        ]
        assert np.mean(drawn) == pytest.approx(Sampling(how).examples(SIZES, 10), rel=0.03), how
    assert Sampling("longest").examples(SIZES, 10) == 540


@pytest.mark.slow
def test_a_weighting_that_has_nothing_to_compare_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = ["dataset.labels_per_class=2", "train.epochs=1st", "tasks=[digits_digit,mnist5k_digit]"]
    for how, told in (("proportional", True), ("longest", False)):
        ran = api.run(compose(f"dataset.sampling={how}", "weighting=dwa", *short))
        assert ("a weighting has nothing to compare" in (ran.folder / "log.txt").read_text()) is told


def test_parts_may_have_any_name():
    names = "dataset.parts=[{first:{from:digits}},{type:{from:digits,split_seed:0}},{norms:{from:mnist5k}}]"
    model = assemble(compose(names, "dataset.labels_per_class=1", "tasks=default"), with_source=False).model
    assert set(model.statistics._modules) == {"first", "type", "norms"}
    with model.on("norms"):
        pass


def test_ones_own_table_and_a_colour_folder_are_parts_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = ["image,shape,size"]
    for i in range(40):
        path = picture(tmp_path / "ab"[i % 2] / f"{i}.png", i)
        rows.append(f"{path},{'round' if i % 2 else 'square'},{i}.5")
    Path("labels.csv").write_text("\n".join(rows))
    parts = "dataset.parts=[{digits:{labels_per_class:2}},{mine:{from:table,path:labels.csv}}]"
    ran = api.run(compose(parts, "train.epochs=2st", "tasks=default"))
    assert set(ran.rows.task) == {"digits_digit", "mine_shape", "mine_size"} and (ran.rows.status == "done").all()
    assert "grey images of 'digits' are repeated to three channels" in (ran.folder / "log.txt").read_text()

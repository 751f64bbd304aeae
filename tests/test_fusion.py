"""Fusion of heads on arrays made by hand, and again from what a run stores."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import nothing_written, refused
from hypothesis import given, settings
from hypothesis import strategies as st

from tlmtl.config import build
from tlmtl.errors import ConfigError
from tlmtl.evaluation import Predictions
from tlmtl.fusion import average, check, fused, fused_metrics, mean_of, no_fusion, stored, vote, vote_of, weighted
from tlmtl.tasks.classification import Classification
from tlmtl.tasks.regression import Regression

ABC = ["a", "b", "c"]


def logs(*rows):
    return torch.tensor(rows, dtype=torch.float64).log()


def tasks(**classes):
    return {name: Classification(name, list(names), ["accuracy", "macro_f1"]) for name, names in classes.items()}


ONE = logs([0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.8, 0.1])
TWO = logs([0.1, 0.7, 0.2], [0.3, 0.3, 0.4], [0.5, 0.4, 0.1])
THREE = logs([0.5, 0.4, 0.1], [0.45, 0.1, 0.45], [0.4, 0.3, 0.3])


def test_the_average_is_the_mean_of_the_probabilities():
    found = fused([ONE + 7, TWO, THREE - 2], mean_of).exp()  # scores may be shifted: they are before softmax
    expected = [[0.4, 1.4 / 3, 0.4 / 3], [0.95 / 3, 0.3, 1.15 / 3], [1 / 3, 0.5, 0.5 / 3]]
    torch.testing.assert_close(found, torch.tensor(expected).double(), atol=1e-7, rtol=0)


def test_weights_are_shares():
    found = fused([ONE, TWO], mean_of, [3, 1]).exp()
    torch.testing.assert_close(found, 0.75 * ONE.exp() + 0.25 * TWO.exp())
    torch.testing.assert_close(fused([ONE, TWO], mean_of, [0, 2]), TWO)  # a head that says nothing
    torch.testing.assert_close(fused([ONE, TWO], mean_of, [0, 0]), fused([ONE, TWO], mean_of))


def test_a_vote_takes_the_class_of_most_heads_and_breaks_ties_by_the_mean_probability():
    found = fused([ONE, TWO, THREE], vote_of)
    # heads say a b a; b c a (a tie of all three: the means are .32, .30, .38); b a a
    assert found.argmax(1).tolist() == [0, 2, 0]
    assert fused([ONE, TWO, THREE], mean_of).argmax(1).tolist() == [1, 2, 1]  # where the mean says otherwise
    torch.testing.assert_close(found.exp().sum(1), torch.ones(3).double())
    assert found[0].exp().tolist() == pytest.approx([(2 + 0.4) / 4, (1 + 1.4 / 3) / 4, (0.4 / 3) / 4])
    sure = logs([1e-9, 1 - 2e-9, 1e-9])  # one head that is sure does not outvote two that are not
    torch.testing.assert_close(fused([sure, logs([0.34, 0.33, 0.33]), logs([0.34, 0.33, 0.33])], vote_of).argmax(1),
                               torch.tensor([0]))  # fmt: skip


@given(st.integers(0, 10**6), st.integers(2, 4), st.integers(2, 6), st.sampled_from([mean_of, vote_of]))
@settings(max_examples=40, deadline=None)
def test_laws_of_fusion(seed, heads, classes, combine):
    generator = torch.Generator().manual_seed(seed)
    outputs = [5 * torch.randn(7, classes, generator=generator) for _ in range(heads)]
    found = fused(outputs, combine)
    assert found.dtype == torch.float64 and torch.allclose(found.exp().sum(1), torch.ones(7).double())
    torch.testing.assert_close(fused(outputs[::-1], combine), found)  # the order of heads does not matter
    order = torch.randperm(classes, generator=generator)
    torch.testing.assert_close(fused([o[:, order] for o in outputs], combine), found[:, order])
    twice = fused([outputs[0]] * heads, combine)  # one head, said several times, is that head
    assert torch.equal(twice.argmax(1), outputs[0].argmax(1))
    torch.testing.assert_close(fused([outputs[0]] * heads, mean_of), outputs[0].double().log_softmax(1))


def test_scores_far_apart_stay_finite():
    sure = torch.tensor([[2000.0, -2000.0], [-2000.0, 2000.0]])
    for combine in (mean_of, vote_of):
        found = fused([sure, sure.flip(1)], combine)
        torch.testing.assert_close(found.exp(), torch.full((2, 2), 0.5).double())
        assert fused([sure, sure], combine).argmax(1).tolist() == [0, 1]
        assert not fused([sure, sure], combine).isnan().any()


def predictions(outputs, targets, mask=None):
    known = {t: torch.ones(len(v), dtype=torch.bool) for t, v in targets.items()} | (mask or {})
    return Predictions(outputs, targets, known)


def test_rows_of_a_fusion_are_measured_as_each_task_is():
    both = tasks(left=ABC, right=ABC)
    said = predictions({"left": ONE, "right": TWO}, {"left": torch.tensor([0, 1, 1]), "right": torch.tensor([1, 2, 0])})
    found = fused_metrics(average(["left", "right"]), both, {"val": said, "test": said})
    assert list(found) == ["left", "right"] and list(found["left"]) == ["val", "test"]
    mean = (ONE.exp() + TWO.exp()) / 2  # .35 .5 .15 | .25 .4 .35 | .3 .6 .1
    assert mean.argmax(1).tolist() == [1, 1, 1]
    loss = -(math.log(0.35) + math.log(0.4) + math.log(0.6)) / 3
    assert found["left"]["test"] == pytest.approx(
        {"loss": loss, "accuracy": 2 / 3, "macro_f1": (0 + 0.8) / 2}, abs=1e-6
    )
    assert found["right"]["val"]["accuracy"] == pytest.approx(1 / 3)
    assert fused_metrics(no_fusion(), both, {"val": said}) == {}


def test_weights_come_from_the_tasks_own_labels_on_validation():
    both = tasks(left=ABC, right=ABC)
    outputs, target = {"left": ONE, "right": TWO}, torch.tensor([0, 1, 0])  # left is right twice, right once
    none = torch.zeros(3, dtype=torch.bool)
    val = predictions(outputs, {"left": target, "right": target}, {"right": none})
    test = predictions({"left": TWO, "right": ONE}, {"left": target, "right": target}, {"right": none})
    found = fused_metrics(weighted(["left", "right"]), both, {"val": val, "test": test})
    mean = (2 * TWO.exp() + ONE.exp()) / 3
    assert found["left"]["test"]["loss"] == pytest.approx(-mean.log()[range(3), target].mean().item(), abs=1e-6)
    assert list(found) == ["left"]  # the other task has no label here
    unlabelled = predictions(outputs, {"left": target, "right": target}, {"left": none, "right": none})
    found = fused_metrics(weighted(["left", "right"]), both, {"val": unlabelled, "test": test})
    assert found == {}  # no weights without a label, and so no figures
    assert list(fused_metrics(average(["left", "right"]), both, {"val": unlabelled, "test": test})["left"]) == ["test"]


def test_examples_without_a_label_have_no_place_in_the_figures():
    both, target = tasks(left=ABC, right=ABC), torch.tensor([0, 1, 1])
    mask = {"left": torch.tensor([True, False, True])}
    said = predictions({"left": ONE, "right": TWO}, {"left": target}, mask)  # the other task is of another data set
    keep = [0, 2]
    short = predictions({"left": ONE[keep], "right": TWO[keep]}, {"left": target[keep]})
    for fusion in (average, weighted, vote):
        made = fusion(["left", "right"])
        assert fused_metrics(made, both, {"val": said}) == fused_metrics(made, both, {"val": short})


def test_classes_are_matched_by_name():
    turned = tasks(left=ABC, right=["c", "a", "b"])
    order = [2, 0, 1]
    target = torch.tensor([0, 1, 1])
    for fusion in (average, weighted, vote):
        made = fusion(["left", "right"])
        plain = predictions({"left": ONE, "right": TWO}, {"left": target})
        said = predictions({"left": ONE, "right": TWO[:, order]}, {"left": target})
        expected = fused_metrics(made, tasks(left=ABC, right=ABC), {"val": plain, "test": plain})
        assert fused_metrics(made, turned, {"val": said, "test": said}) == expected
        mine = predictions(
            {"left": ONE, "right": TWO[:, order]}, {"right": torch.tensor([1, 2, 2])}
        )  # a b b by its names
        assert fused_metrics(made, turned, {"val": mine})["right"]["val"] == pytest.approx(expected["left"]["val"])


def frame(said, split):
    """As `artifacts.write_predictions` has it: targets null where missing, outputs as lists of doubles."""
    rows = []
    for name, output in said.outputs.items():
        there = said.mask.get(name, torch.zeros(len(output), dtype=torch.bool))
        for i, row in enumerate(output.tolist()):
            target = float(said.targets[name][i]) if there[i] else None
            rows.append(
                {"split": split, "id": f"{i // 2}.png", "task": name, "target": target, "output": np.array(row)}
            )
    return pd.DataFrame(rows)


@pytest.mark.parametrize("fusion", [average, weighted, vote])
def test_the_fused_figures_follow_from_what_is_stored(fusion, tmp_path):
    both = tasks(left=ABC, right=ABC)
    sets = {}
    for seed, split in enumerate(("val", "test")):
        generator = torch.Generator().manual_seed(seed)
        outputs = {name: torch.randn(40, 3, generator=generator) for name in both}
        targets = {name: torch.randint(3, (40,), generator=generator) for name in both}
        sets[split] = predictions(outputs, targets, {"left": torch.rand(40, generator=generator) > 0.3})
    kept = pd.concat([frame(said, split) for split, said in sets.items()])
    kept = pd.concat([kept, kept[kept.task == "left"].assign(task="sum")])  # a task of another kind has no part in it
    kept.to_parquet(tmp_path / "predictions.parquet")
    made = fusion(["left", "right"])
    everything = {**both, "sum": Regression("sum", 0.0, 1.0, ["mae"])}
    again = fused_metrics(made, both, stored(pd.read_parquet(tmp_path / "predictions.parquet"), everything))
    assert again == fused_metrics(made, both, sets) and set(again) == {"left", "right"}
    assert again["left"]["test"]["accuracy"] != again["right"]["test"]["accuracy"]
    shuffled = pd.concat([kept[kept.task == "left"], kept[kept.task == "right"].iloc[::-1]])
    with pytest.raises(ValueError, match="should speak of the same examples; 'right' does not"):
        stored(shuffled, both)


def test_what_cannot_be_fused():
    run = {**tasks(left=ABC, right=ABC, wide=[*ABC, "d"]), "sum": Regression("sum", 0.0, 1.0, ["mae"])}
    check(average(["left", "right"]), run)
    check(no_fusion(), run)
    for names, message in (
        (
            ["left", "rigth"],
            r"'fusion.tasks' names the unknown task 'rigth'. Did you mean 'right'\? This run has: left, ",
        ),
        (["left"], r"should name two different tasks or more, whose heads say the same of an example. Found \[left\]"),
        ([], r"should name two different tasks or more.*Found \[\]"),
        (["left", "left"], r"should name two different tasks or more.*Found \[left, left\]"),
        (["left", "sum"], "should name classifications. Found 'sum', a regression"),
        (["left", "wide"], "'left' has 3 and 'wide' 4; only one of the two has: d"),
    ):
        for fusion in (average, weighted, vote):
            with pytest.raises(ConfigError, match=message):
                check(fusion(names), run)


def test_a_fusion_is_built_from_its_config():
    assert build({"_target_": "tlmtl.fusion.no_fusion"}, "fusion") is None
    made = build({"_target_": "tlmtl.fusion.weighted", "tasks": ["left", "right"]}, "fusion")
    assert made == weighted(["left", "right"]) and made.by_accuracy
    with pytest.raises(
        ConfigError, match=r"Unknown key 'fusion.task' in tlmtl.fusion.vote. Did you mean 'fusion.tasks'"
    ):
        build({"_target_": "tlmtl.fusion.vote", "task": ["left"]}, "fusion")
    with pytest.raises(ConfigError, match=r"Wrong value at 'fusion.tasks'"):
        build({"_target_": "tlmtl.fusion.vote", "tasks": "left"}, "fusion")


def test_the_fused_rows_of_a_run_follow_from_its_file(main, tmp_path):
    fused_tasks = ["digits_digit", "two_digits_left"]
    said = main(
        "train", "dataset=joint", "dataset.parts=[digits,two_digits]", f"tasks=[{','.join(fused_tasks)},two_digits_right]",
        "strategy=from_scratch", "model.width=4", "train.epochs=1", "fusion=weighted",
        f"fusion.tasks=[{','.join(fused_tasks)}]", "term=[deep_supervision,supcon]", "progress=false",
    )  # fmt: skip
    assert said.code == 0, said.all
    run = tmp_path / "outputs" / "runs" / "latest"
    rows = pd.read_csv(run / "results.csv").set_index("task")
    read = tasks(**{name: map(str, range(10)) for name in fused_tasks})
    again = fused_metrics(weighted(fused_tasks), read, stored(pd.read_parquet(run / "predictions.parquet"), read))
    assert [f"fused:{name}" for name in again] == [name for name in rows.index if name.startswith("fused:")]
    for name, splits in again.items():
        assert not rows.primary[f"fused:{name}"] and rows.kind[f"fused:{name}"] == "classification"
        for split, figures in splits.items():
            for figure, value in figures.items():
                assert rows[f"{split}/{figure}"][f"fused:{name}"] == value, (name, split, figure)
    terms = pd.read_csv(run / "history.csv").query("split == 'train' and name == 'loss'").task
    assert {"deep_supervision", "supcon"} <= set(terms)


def test_a_wrong_fusion_is_told_before_the_run(main, tmp_path):
    for override, message in (
        ("fusion.tasks=[left,rigth]", "'fusion.tasks' names the unknown task 'rigth'. Did you mean 'right'?"),
        ("fusion.tasks=[left,sum]", "'fusion.tasks' should name classifications. Found 'sum', a regression"),
        ("seed=0", "'fusion.tasks' has no value. Set it on the command line: fusion.tasks=VALUE"),
    ):
        refused(main("train", "dataset=two_digits", "tasks=all", "fusion=vote", override), message)
    nothing_written(tmp_path)

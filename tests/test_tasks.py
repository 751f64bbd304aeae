"""Kinds of task: losses against torch, metrics against scikit-learn, and what a saved model and a table say of them."""

from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from torch.nn import functional as F

from tlmtl import artifacts
from tlmtl.errors import ConfigError
from tlmtl.evaluation import Predictions, measure, selection_score
from tlmtl.schema import Task
from tlmtl.tasks.classification import Classification
from tlmtl.tasks.kinds import KINDS, make_task, task_from
from tlmtl.tasks.multilabel import Multilabel
from tlmtl.tasks.regression import Regression

torch.set_num_threads(1)
NAN = float("nan")
ALL = ["accuracy", "macro_f1", "mean_average_precision", "macro_auroc"]


def marks(*labels: str, metrics: list[str] = ALL) -> Multilabel:
    return Multilabel("m", list(labels or "abc"), metrics)


def noise(n: int, k: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed))


def make(kind: str, column, classes=None, **more):
    return make_task("m", Task(kind=kind, **more), np.asarray(column), classes)


# multilabel


def test_multilabel_loss_is_the_mean_over_labels_and_a_missing_row_gives_none():
    column = np.array([[1, 0, 1], [NAN, NAN, NAN], [0, 0, 1], [1, 1, 0]], np.float32)
    target, mask = marks().encode(column)
    assert mask.tolist() == [True, False, True, True] and target.dtype == torch.float32
    output = noise(4, 3).requires_grad_()
    loss = marks().loss(output, target, mask)
    (gradient,) = torch.autograd.grad(loss, output)
    expected = F.binary_cross_entropy_with_logits(output[mask], target[mask])
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, output)[0])
    assert gradient[1].tolist() == [0, 0, 0] and gradient[0].abs().min() > 0
    nothing = marks().loss(output, target, torch.zeros(4, dtype=torch.bool))
    assert nothing.item() == 0 and torch.autograd.grad(nothing, output)[0].abs().sum() == 0


def test_a_single_unknown_label_is_left_out_of_its_row():
    target, mask = marks().encode(np.array([[1, NAN, 0], [0, 1, 1]], np.float32))
    output = noise(2, 3).requires_grad_()
    each = F.binary_cross_entropy_with_logits(output, target.nan_to_num(), reduction="none")
    loss = marks().loss(output, target, mask)
    torch.testing.assert_close(loss, ((each[0, 0] + each[0, 2]) / 2 + each[1].mean()) / 2)
    assert (torch.autograd.grad(loss, output)[0] == 0).tolist() == [[False, True, False], [False] * 3]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 9), st.integers(1, 5), st.integers(1, 6))
def test_parts_of_a_batch_sum_to_its_loss_and_no_constant_is_better(seed, labels, pieces):
    random = np.random.default_rng(seed)
    column = random.choice([0, 1, NAN], (12, labels), p=[0.4, 0.4, 0.2])
    task = marks(*"abcde"[:labels])
    target, mask = task.encode(column)
    output = noise(12, labels, seed)
    parts = [
        task.loss(output[i], target[i], mask[i]) * (mask[i].sum() / mask.sum())
        for i in torch.arange(12).tensor_split(pieces)
    ]
    torch.testing.assert_close(torch.stack(parts).sum(), task.loss(output, target, mask))
    least = task.constant_loss(target[mask])
    constant = torch.zeros(1, labels, requires_grad=True)
    optimizer = torch.optim.LBFGS([constant], lr=1, max_iter=200, line_search_fn="strong_wolfe")

    def step():
        optimizer.zero_grad()
        loss = task.loss(constant.expand(12, -1), target, mask)
        loss.backward()
        return loss

    optimizer.step(step)
    assert step().item() == pytest.approx(least, abs=2e-3) and least <= step().item() + 1e-5


def test_losses_stay_finite():
    target, mask = marks().encode(np.array([[1, 0, 1], [0, 1, 0]], np.float32))
    assert marks().loss(torch.full((2, 3), -1e4), target, mask).item() == pytest.approx(5000)
    assert marks().constant_loss(torch.tensor([[1.0, 0, NAN]])) == 0


@pytest.mark.parametrize("labels", [1, 4])
def test_multilabel_metrics_agree_with_scikit_learn(labels):
    task, scores = marks(*"abcd"[:labels]), noise(80, labels)
    target = (noise(80, labels, 1) + scores > 0).float()
    found, said = task.measure(scores, target), scores.sigmoid().numpy()
    true = target.numpy()
    columns = range(labels)
    expected = {
        "accuracy": np.mean([sk.accuracy_score(true[:, i], said[:, i] > 0.5) for i in columns]),
        "macro_f1": np.mean([sk.f1_score(true[:, i], said[:, i] > 0.5) for i in columns]),
        "mean_average_precision": np.mean([sk.average_precision_score(true[:, i], said[:, i]) for i in columns]),
        "macro_auroc": np.mean([sk.roc_auc_score(true[:, i], said[:, i]) for i in columns]),
    }
    assert found == pytest.approx(expected, abs=1e-6)


def test_a_label_that_defines_no_metric_is_left_out_of_its_mean():
    scores = torch.tensor([[2.0, -1, -1], [-1, -2, 2], [1, -3, 1]])
    target = torch.tensor([[1.0, 0, 1], [0, 0, 1], [NAN, 0, 1]])  # b is never there, c always
    found = marks().measure(scores, target)
    assert found["macro_auroc"] == 1.0 and found["mean_average_precision"] == 1.0
    assert found["accuracy"] == pytest.approx((1 + 1 + 2 / 3) / 3)
    assert found["macro_f1"] == pytest.approx((1 + 2 * 2 / (2 * 2 + 1)) / 2)  # b is neither there nor said to be
    assert set(marks().measure(scores[:, 1:2], target[:, 1:2])) == {"accuracy"}


def test_multilabel_in_selection():
    target, mask = marks().encode(np.array([[1, 0, 1], [NAN] * 3, [0, 0, 1], [1, 1, 0], [0, 1, 1]], np.float32))
    rate = target[mask].mean(0)
    base = Predictions({"m": rate.logit().expand(5, -1)}, {"m": target}, {"m": mask})
    found = measure(marks(), base)
    assert found["loss"] == pytest.approx(marks().constant_loss(target[mask]), rel=1e-6)
    assert selection_score(marks(), base, found) == pytest.approx(0, abs=1e-6)


# making tasks


def test_kinds_and_their_default_metrics():
    for column, classes, kind in (
        ([0, 1, -1], ["a", "b"], "classification"),
        ([[1.0, 0], [NAN, NAN]], ["a", "b"], "multilabel"),
        ([[1.0], [0]], ["a"], "multilabel"),
        ([0.5, NAN, 1.5], None, "regression"),
    ):
        task = make(kind, column, classes)
        assert task.kind == kind and task.metrics == KINDS[kind][1] and set(task.metrics) <= set(KINDS[kind][0])
    assert make("multilabel", [[1.0], [0]], ["a"], metrics=["macro_auroc"]).metrics == ["macro_auroc"]


@pytest.mark.parametrize(
    ("kind", "column", "classes", "message"),
    [
        ("multilable", [0, 1], ["a", "b"], r"Unknown 'dataset.tasks.m.kind=multilable'. Did you mean 'multilabel'\?"),
        ("multilabel", [0, 1], ["a", "b"], "one label per example: kind=classification"),
        ("multilabel", [0.5, 1], None, "one label per example: kind=regression"),
        ("classification", [[0.0, 1]], ["a", "b"], "several yes-or-no labels: kind=multilabel"),
        ("regression", [[0.0, 1]], ["a", "b"], "several yes-or-no labels: kind=multilabel"),
        ("multilabel", [[0.0, 1]], ["a"], r"a name for each of its 2 labels. Found 1\."),
        ("multilabel", [[NAN, NAN]], ["a", "b"], "has no label in the training split"),
        ("classification", [-1, -1], ["a", "b"], "has no label in the training split"),
        ("regression", [NAN], None, "has no label in the training split"),
    ],
)
def test_what_a_task_cannot_be(kind, column, classes, message):
    with pytest.raises(ConfigError, match=message):
        make(kind, column, classes)


def test_wrong_metrics_and_labels_are_told():
    with pytest.raises(
        ConfigError, match=r"Unknown metric 'macro_auc'.*Did you mean 'macro_auroc'\?.*A multilabel has"
    ):
        make("multilabel", [[1.0], [0]], ["a"], metrics=["macro_auc"])
    with pytest.raises(ConfigError, match=r"'dataset.tasks.m' \(multilabel\) should be 0, 1 or missing. Found 2\."):
        marks().encode(np.array([[1, 0, 2]], np.float32))


TASKS = [
    Classification("t", ["x", "y", "z"], ["accuracy"]),
    Regression("t", 2.0, 3.0, ["mae"]),
    Multilabel("t", ["x", "y", "z"], ["macro_f1"]),
]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
def test_a_description_makes_the_task_again(task):
    assert task_from("t", task.describe()) == task
    with pytest.raises(ConfigError, match="task 't' is of the unknown kind 'boxes'"):
        task_from("t", {"kind": "boxes"})


# tables for people


def test_explaining_classes():
    output = torch.tensor([[2.0, 1, 0], [0, 1, 3]])
    shares = output.double().softmax(1)
    assert TASKS[0].explain(output) == {"": ["x", "z"], "_probability": [shares[0, 0].item(), shares[1, 2].item()]}
    for top in (3, 9):
        told = TASKS[0].explain(output, top)
        assert list(told) == ["", "_probability", "_2", "_2_probability", "_3", "_3_probability"]
        assert told["_2"] == ["y", "y"] and told["_3"] == ["z", "x"]
        assert sum(told[name][0] for name in told if name.endswith("probability")) == pytest.approx(1)
    assert list(TASKS[0].explain(output, 0)) == ["", "_probability"]


def test_explaining_values_and_labels():
    output = torch.tensor([[1.0, -1, 0], [-1, -2, -3], [3, 1, 0.5]])
    assert TASKS[1].explain(output[:, :1]) == {"": [1.0, -1.0, 3.0]}
    told = TASKS[2].explain(output, 2)
    assert told[""] == ["x", "", "x;y;z"] and list(told) == ["", "_x", "_y", "_z"]
    assert told["_y"] == pytest.approx(output[:, 1].sigmoid().tolist())


def written(path, **tasks):
    """Predictions of two examples, the second without labels, read back as rows by task."""
    outputs, targets, masks = {}, {}, {}
    for name, (task, column) in tasks.items():
        targets[name], masks[name] = task.encode(np.array(column))
        outputs[name] = noise(len(column), task.outputs)
    data = SimpleNamespace(ids=["one", "two"], splits={"test": [0, 1]}, tasks={n: t for n, (t, _) in tasks.items()})
    artifacts.write_predictions(path, [artifacts.Said("test", data, Predictions(outputs, targets, masks), data.tasks)])
    table = pq.read_table(path)
    return table.column_names, {
        name: [row for row in table.to_pylist() if row["task"] == name] for name in data.tasks
    }, outputs  # fmt: skip


def test_predictions_of_several_labels_have_a_column_more(tmp_path):
    plain = ["split", "id", "task", "target", "output"]
    both = {"c": (TASKS[0], [2, -1]), "r": (TASKS[1], [5.0, NAN])}
    names, rows, _ = written(tmp_path / "a", **both)
    assert names == plain
    assert [row["target"] for row in rows["c"] + rows["r"]] == [2, None, 5, None]
    names, rows, outputs = written(tmp_path / "b", **both, m=(TASKS[2], [[1.0, 0, NAN], [NAN, NAN, NAN]]))
    assert names == [*plain, "targets"]
    assert [row["targets"] for row in rows["m"]] == [[1, 0, None], None]
    assert [row["target"] for row in rows["m"]] == [None, None] == [row["targets"] for row in rows["c"]]
    assert [row["target"] for row in rows["c"]] == [2, None]
    assert [row["output"] for row in rows["m"]] == outputs["m"].tolist()


@pytest.mark.parametrize(("mean", "std"), [(0, 1), (2000, 1), (1e5, 10), (1.7e9, 1e5)])
def test_regression_metrics_hold_far_from_zero(mean, std):
    from sklearn.metrics import mean_squared_error, r2_score

    random = np.random.default_rng(0)
    target = random.normal(mean, std, 500)
    said = target + random.normal(0, std / 2, 500)
    task = make("regression", target, metrics=["r2", "mse", "rmse", "mae"])
    encoded, there = task.encode(target)
    stored = task.own_unit(torch.from_numpy((said - task.mean) / task.std)[:, None])
    found = task.measure(stored, task.own_target(encoded))
    assert there.all() and found["r2"] == pytest.approx(r2_score(target, said), abs=1e-5)
    assert found["mse"] == pytest.approx(mean_squared_error(target, said), rel=1e-4)
    assert found["rmse"] == pytest.approx(mean_squared_error(target, said) ** 0.5, rel=1e-4)


def test_classes_without_examples_are_left_out_of_the_mean():
    from sklearn.metrics import balanced_accuracy_score, f1_score

    random = np.random.default_rng(0)
    target = random.integers(0, 2, 200)
    said = np.where(random.random(200) < 0.8, target, random.integers(0, 4, 200))
    scores = torch.nn.functional.one_hot(torch.from_numpy(said), 4).float()
    task = Classification("t", list("abcd"), ["mean_class_accuracy", "macro_f1"])
    found = task.measure(scores, torch.from_numpy(target))
    with pytest.warns(UserWarning):
        assert found["mean_class_accuracy"] == pytest.approx(balanced_accuracy_score(target, said))
    assert found["macro_f1"] == pytest.approx(f1_score(target, said, average="macro"))


def test_a_constant_target_is_not_scaled_up():
    column = np.full(50, 0.1)
    column[::2] += 1e-17
    assert make("regression", column).std == 1.0

"""Heads found on frozen features without the training loop: what they are, against scikit-learn and by hand; their runs."""

import copy
import csv
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from test_resume import StopAt, decided, parameters
from torch import nn
from torch.nn import functional as F

import tlmtl
from tlmtl import identity, job, pretrain
from tlmtl.assemble import assemble
from tlmtl.errors import ConfigError
from tlmtl.models.heads import LinearHead
from tlmtl.predict.model import load
from tlmtl.solvers import grid
from tlmtl.solvers.base import Labelled, Problem
from tlmtl.solvers.knn import KNN
from tlmtl.solvers.logistic import Logistic
from tlmtl.solvers.path import rotated
from tlmtl.tasks.classification import Classification
from tlmtl.tasks.multilabel import Multilabel
from tlmtl.tasks.regression import Regression

QUICK = ("dataset.labels_per_class=4", "progress=false")
RANDOM = ("strategy.init=random", "source=none")


def features(n, size, seed=0):
    """Features as networks give them: not negative, far from alike in scale, correlated."""
    random = np.random.default_rng(seed)
    mix = random.normal(size=(size, size)) * np.geomspace(1, 0.01, size)[:, None]
    return torch.from_numpy((np.maximum(random.normal(size=(n, size)) @ mix + 0.3, 0) + 0.01).astype(np.float32))


def labels(values, classes, seed=0):
    random = np.random.default_rng(seed)
    scores = values.numpy() @ random.normal(size=(values.shape[1], classes)) / values.std().item() / 2
    return torch.from_numpy((scores + random.gumbel(size=scores.shape)).argmax(1))


def task_of(classes, **more):
    return Classification("kind", [str(i) for i in range(classes)], ["accuracy"], **more)


def problem(task, x, y, n):
    """The first `n` examples to learn from, the others to choose by; what is said of it."""
    told: list[float] = []
    head = LinearHead(x.shape[1], task.outputs)
    return Problem(task, Labelled(x[:n], y[:n]), Labelled(x[n:], y[n:]), head, told.append, None, "target"), told  # type: ignore[arg-type]


def reference(c, x, y, weight=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return LogisticRegression(C=c, max_iter=20_000, tol=1e-10, class_weight=weight).fit(
            x.double().numpy(), y.numpy()
        )


def probabilities(head, x):
    with torch.no_grad():
        return head(x).double().softmax(1).numpy()


# logistic


@pytest.mark.parametrize(("n", "size", "classes"), [(300, 40, 3), (300, 40, 2), (60, 150, 4)])
@pytest.mark.parametrize("c", [1e-3, 0.5, 30.0])
def test_logistic_is_scikit_learns_regression(n, size, classes, c):
    x = features(n + 100, size)
    y = labels(x, classes)
    asked, told = problem(task_of(classes), x, y, n)
    found = Logistic(1, c, c).solve(asked)
    other = reference(c, x[:n], y[:n])
    expected = other.predict_proba(x[n:].double().numpy())
    np.testing.assert_allclose(probabilities(found.head, x[n:]), expected, atol=1e-3 if c < 1 else 0.02)
    loss = F.nll_loss(torch.from_numpy(expected).log(), y[n:]).item()
    # 1e-4 on an AMD EPYC; an Intel Xeon's products round otherwise (1.9e-4)
    assert found.tried[0].metrics["loss"] == pytest.approx(loss, abs=3e-4 if c < 1 else 1e-3) == told[0]
    assert found.tried[0].metrics["accuracy"] == pytest.approx((expected.argmax(1) == y[n:].numpy()).mean(), abs=0.011)
    assert found.examples == found.steps * n  # in single precision, far beyond the best strength, some digits go


def test_logistic_takes_the_strength_that_validation_likes_best():
    x = features(400, 30)
    y = labels(x, 3)
    asked, _ = problem(task_of(3), x, y, 200)
    found = Logistic(patience=None).solve(asked)
    values = np.geomspace(1e-6, 1e5, 45)
    assert [one.name for one in found.tried] == [f"C={c:.4g}" for c in values]
    assert 8 < found.best < 36
    near, losses = range(found.best - 6, found.best + 6), []
    for c in values[near]:
        expected = reference(c, x[:200], y[:200]).predict_proba(x[200:].double().numpy())
        losses.append(F.nll_loss(torch.from_numpy(expected).log(), y[200:]).item())
    np.testing.assert_allclose([found.tried[i].metrics["loss"] for i in near], losses, atol=1e-4)
    assert found.best == near[int(np.argmin(losses))]
    np.testing.assert_allclose(F.cross_entropy(found.head(x[200:]), y[200:]).item(), min(losses), atol=1e-4)
    few = Logistic(patience=3).solve(problem(task_of(3), x, y, 200)[0])
    assert few.best == found.best and len(few.tried) == found.best + 4
    assert torch.equal(few.head.linear.weight, found.head.linear.weight)


def test_logistic_with_weights_of_classes_and_standardized():
    x = features(300, 20)
    y = labels(x, 3).clamp(max=1)  # one class is rare
    y[:10] = 2
    counts = torch.bincount(y[:200], minlength=3)
    weights = (200 / (3 * counts)).tolist()  # scikit-learn's `balanced`; their mean over the examples is 1
    found = Logistic(1, 0.3, 0.3).solve(problem(task_of(3, class_weights=weights), x, y, 200)[0])
    expected = reference(0.3, x[:200], y[:200], "balanced").predict_proba(x[200:].double().numpy())
    np.testing.assert_allclose(probabilities(found.head, x[200:]), expected, atol=1e-3)
    scaler = StandardScaler().fit(x[:200].double().numpy())
    alike = [torch.from_numpy(scaler.transform(one.double().numpy())) for one in (x[:200], x[200:])]
    found = Logistic(1, 0.3, 0.3, standardize=True).solve(problem(task_of(3), x, y, 200)[0])
    expected = reference(0.3, alike[0], y[:200]).predict_proba(alike[1].numpy())
    np.testing.assert_allclose(probabilities(found.head, x[200:]), expected, atol=1e-3)


def excess(task, head, x, y, c):
    """How far the objective, written with the task's own training loss, is above its minimum at most, relative: it curves by
    the penalty at least in the weights. And the slope in the biases."""
    summed = task.outputs if task.kind == "multilabel" else 1  # a regression of each label, not their mean
    twice = 2 if task.kind == "classification" and task.outputs == 2 else 1  # of two classes, each has half the weight
    layer, pull = copy.deepcopy(head.linear).double(), twice / (c * len(y))
    loss = summed * task.training_loss(layer(x.double()), y, torch.ones(len(y)))
    total = loss + pull * layer.weight.square().sum() / 2
    weight, bias = torch.autograd.grad(total, list(layer.parameters()))
    return (weight.square().sum() / (2 * pull) / total).item(), bias.abs().max().item()


@settings(max_examples=25, deadline=None)
@given(
    st.integers(12, 120), st.integers(1, 60), st.integers(2, 5), st.sampled_from([0.0, 0.2]), st.booleans(),
    st.sampled_from([1e-4, 0.1, 10.0]), st.integers(0, 5),
)  # fmt: skip
def test_logistic_is_the_minimum_of_the_tasks_own_loss(n, size, classes, smoothing, weighed, c, seed):
    x, random = features(n + 5, size, seed), np.random.default_rng(seed)
    y = torch.from_numpy(np.concatenate([np.arange(classes), random.integers(0, classes, n + 5 - classes)]))
    weights = random.uniform(0.3, 2, classes).tolist() if weighed else None
    task = task_of(classes, label_smoothing=smoothing, class_weights=weights)
    found = Logistic(1, c, c).solve(problem(task, x, y, n)[0])
    above, slope = excess(task, found.head, x[:n], y[:n], c)
    assert above < 1e-4 and slope < 5e-4


@pytest.mark.parametrize("missing", [False, True])
def test_logistic_of_labels_is_one_regression_for_each(missing):
    x, random = features(300, 25), np.random.default_rng(1)
    y = torch.stack([labels(x, 2, seed) for seed in range(3)], 1).float()
    task = Multilabel("marks", ["a", "b", "c"], ["accuracy"])
    if missing:
        y[torch.from_numpy(random.random(y.shape) < 0.3)] = torch.nan
        y = y[y.isfinite().any(1)]
        x = x[: len(y)]
    found = Logistic(1, 0.4, 0.4).solve(problem(task, x, y, 200)[0])
    above, slope = excess(task, found.head, x[:200], y[:200], 0.4)
    assert above < 1e-5 and slope < 5e-4
    if not missing:
        with torch.no_grad():
            said = found.head(x[200:]).sigmoid().numpy()
        for i in range(3):
            expected = reference(0.4, x[:200], y[:200, i]).predict_proba(x[200:].double().numpy())[:, 1]
            np.testing.assert_allclose(said[:, i], expected, atol=1e-3)


def test_a_class_or_label_that_nothing_tells_apart_is_left_to_its_bias():
    x = features(40, 10)
    y = torch.arange(40) % 2 * 2  # of three classes the middle one is never there
    found = Logistic().solve(problem(task_of(3), x, y, 20)[0])
    assert found.head.linear.weight[1].abs().max() == 0 and torch.isfinite(found.head.linear.bias).all()
    assert probabilities(found.head, x)[:, 1].max() < 0.2
    alone = Logistic().solve(problem(task_of(3), x, torch.zeros(40, dtype=torch.int64), 20)[0])
    np.testing.assert_allclose(probabilities(alone.head, x)[:, 0], 1 / (1 + 2 / 21), rtol=1e-5)
    y = torch.tensor([[1.0, 0.0, torch.nan]]).expand(40, 3)  # always, never, nobody knows
    task = Multilabel("marks", ["a", "b", "c"], ["accuracy"])
    found = Logistic().solve(problem(task, x, y, 20)[0])
    with torch.no_grad():
        np.testing.assert_allclose(found.head(x).sigmoid().numpy()[0], [20.5 / 21, 0.5 / 21, 0.5], rtol=1e-5)
    one = Logistic().solve(problem(task_of(2), x, torch.arange(40) % 2, 1)[0])  # a single example
    assert torch.isfinite(one.head(x)).all()


def test_without_validation_labels_a_usual_setting_is_taken():
    x = features(40, 10)
    y = labels(x, 2)
    found = Logistic().solve(problem(task_of(2), x, y, 40)[0])
    assert found.tried[found.best].name == "C=1" and found.tried[found.best].metrics == {}
    assert torch.isfinite(found.head(x)).all()
    found = KNN([5, 10, 20, 30]).solve(problem(task_of(2), x, y, 40)[0])
    assert found.tried[found.best].name == "k=20" and found.head.k == 20


@pytest.mark.parametrize(("n", "size"), [(50, 20), (20, 50), (50, 50)])
def test_rotated_features_are_the_features(n, size):
    x = features(n + 10, size)
    data = rotated(x[:n])
    assert data.values.shape[1] <= min(n - 1, size)
    far = lambda a: (a[:, None] - a[None]).square().sum(-1)  # noqa: E731 - rotation leaves distances
    np.testing.assert_allclose(far(data.values), far(x[:n]), atol=1e-4, rtol=1e-5)
    np.testing.assert_allclose(data.values.square().mean(0), data.variance, rtol=1e-4)
    weight, bias = torch.randn(3, data.values.shape[1], dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    back = nn.functional.linear(x.double(), *data.back(weight, bias))
    np.testing.assert_allclose(back, nn.functional.linear(data.of(x).double(), weight, bias), atol=1e-5)


# nearest neighbours


def votes(x, others, k, temperature):
    """Of one image: weights of its k nearest and their numbers, by hand."""
    cosines = [float(np.dot(x, other) / np.linalg.norm(x) / np.linalg.norm(other)) for other in others]
    nearest = sorted(range(len(others)), key=lambda i: -cosines[i])[:k]
    weights = np.exp(np.array([cosines[i] for i in nearest]) / temperature)
    return weights / weights.sum(), nearest


@pytest.mark.parametrize("weights", [None, [2.0, 0.5, 1.0]])
def test_neighbours_vote_by_hand(weights):
    x = features(70, 12)
    y = labels(x, 3)
    found = KNN([3, 7, 500], 0.1, 2.0).solve(problem(task_of(3, class_weights=weights), x, y, 50)[0])
    assert [one.name for one in found.tried] == ["k=3", "k=7", "k=50"]
    others = x[:50].double().numpy()
    for one, k in zip(found.tried, (3, 7, 50), strict=True):
        losses, right = [], []
        for image, label in zip(x[50:].double().numpy(), y[50:].tolist(), strict=True):
            share, nearest = votes(image, others, k, 0.1)
            voted = np.zeros(3)
            for weight, i in zip(share, nearest, strict=True):
                voted[y[i]] += k * weight * (weights or [1] * 3)[y[i]]
            p = (voted + 2 / 3) / (voted.sum() + 2)
            losses.append(-np.log(p[label]) * (weights or [1] * 3)[label])
            right.append(p.argmax() == label)
        assert one.metrics["loss"] == pytest.approx(np.mean(losses), abs=1e-5)
        assert one.metrics["accuracy"] == pytest.approx(np.mean(right))
    best = min(found.tried, key=lambda one: one.metrics["loss"])
    assert found.tried[found.best] is best and found.head.k == int(best.name[2:])
    said = found.head(x[50:])
    assert F.cross_entropy(said, y[50:], None if weights is None else torch.tensor(weights), reduction="sum").item() / 20 \
        == pytest.approx(best.metrics["loss"], abs=1e-5)  # fmt: skip
    np.testing.assert_allclose(said.exp().sum(1), 1, rtol=1e-5)


def test_neighbours_tell_labels_and_values():
    x, random = features(60, 8), np.random.default_rng(0)
    y = torch.from_numpy(random.integers(0, 2, (60, 2))).float()
    y[::3, 0] = torch.nan
    found = KNN([4], smoothing=0.5).solve(problem(Multilabel("marks", ["a", "b"], ["accuracy"]), x, y, 40)[0])
    values = torch.randn(60)
    other = KNN([4]).solve(problem(Regression("size", 3.0, 2.0, ["mae"]), x, values, 40)[0])
    said, told = found.head(x[40:]).sigmoid(), other.head(x[40:])
    for row, image in enumerate(x[40:].double().numpy()):
        share, nearest = votes(image, x[:40].double().numpy(), 4, 0.07)
        assert told[row, 0].item() == pytest.approx(float(share @ values[nearest].double().numpy()), abs=1e-5)
        for label in range(2):
            theirs = y[nearest, label].numpy()
            known = np.isfinite(theirs)
            mean = (share[known] @ theirs[known]) / max(share[known].sum(), 1e-12)
            assert said[row, label].item() == pytest.approx((known.sum() * mean + 0.25) / (known.sum() + 0.5), abs=1e-5)


def test_many_neighbours_fit_into_memory():
    """50,000 x 1,280 features and 3,000 questions: the features once more, and a piece of the cosines."""
    import resource

    torch.manual_seed(0)
    x = torch.randn(20_000, 640)
    y = torch.randint(3, (20_000,))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    KNN([5, 200]).solve(problem(task_of(3), x, y, 18_000)[0])
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert (
        grown < 2 * x.numel() * 4 / 2**20 + 150
    )  # of all cosines at once it would be 137 MB more, at 50,000 a gigabyte


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: KNN([]), "neighbours"),
        (lambda: KNN([0, 5]), "neighbours"),
        (lambda: KNN([5], temperature=0), "temperature"),
        (lambda: KNN([5], smoothing=-1), "smoothing"),
        (lambda: Logistic(0), "strengths"),
        (lambda: Logistic(passes=0), "passes"),
        (lambda: Logistic(patience=0), "patience"),
        (lambda: Logistic(lowest=0), "lowest"),
        (lambda: Logistic(lowest=2, highest=1), "lowest"),
    ],
)
def test_keywords_out_of_range(make, key):
    with pytest.raises(ConfigError, match=f"strategy.solver.{key}"):
        make()


# runs of linear probes


def probe(*words):
    return (
        "strategy=linear_probe",
        "optimizer=sgd",
        "schedule=cosine",
        "train.epochs=12",
        "train.batch_size=20",
        *words,
    )


def test_the_grids_head_is_the_best_of_the_probes_alone(tmp_path):
    set_up = (
        "strategy=linear_probe_grid",
        "train.epochs=12",
        "train.batch_size=20",
        "head.dropout=0.2",
        "train.clip=2.0",
    )
    lists = ("strategy.solver.lrs=[0.01,0.3]", "strategy.solver.weight_decays=[0,0.5]")
    folder, row = run(tmp_path / "grid", *set_up, *lists, *RANDOM)
    history = pd.read_csv(folder / "history.csv").set_index(["step", "name"])["value"]
    best = {}
    for lr in ("0.01", "0.3"):
        for decay in ("0", "0.5"):
            words = probe(f"optimizer.lr={lr}", f"optimizer.weight_decay={decay}", "head.dropout=0.2", "train.clip=2.0")
            alone, one = run(tmp_path / f"{lr}-{decay}", *words, *RANDOM)
            best[f"lr={lr} weight_decay={decay}"] = one, alone
            curve = pd.read_csv(alone / "history.csv")
            curve = curve[curve["split"] == "val"]
            theirs = [
                history[step, f"{name}[lr={lr} weight_decay={decay}]"]
                for step, name in curve[["step", "name"]].itertuples(index=False)
            ]
            np.testing.assert_allclose(theirs, curve["value"], rtol=1e-4, atol=1e-5)
    assert row["chosen"] == min(best, key=lambda name: float(best[name][0]["val/loss"]))
    other, alone = best[row["chosen"]]
    for column in ("val/loss", "val/accuracy", "test/loss", "test/accuracy"):
        assert float(row[column]) == pytest.approx(float(other[column]), abs=1e-5)
    for column in ("steps", "examples_seen", "labels_seen", "parameters_trained", "epochs", "optimizer"):
        assert row[column] == other[column]
    assert row["lr"] == row["weight_decay"] == ""
    mine, theirs = (pd.read_csv(one / "history.csv") for one in (folder, alone))
    mine = mine[~mine["name"].str.contains("[", regex=False)].reset_index(drop=True)
    assert mine.drop(columns="value").equals(theirs.drop(columns="value"))  # the run's own curves, as any run's
    np.testing.assert_allclose(mine["value"], theirs["value"], rtol=1e-4, atol=1e-5)
    assert "grid's last" in (folder / "log.txt").read_text() or "lr=0.01" in row["chosen"]


def test_a_grid_of_several_tasks_kinds_and_epochs(tmp_path):
    words = ("strategy=linear_probe_grid", "strategy.solver.lrs=[0.01,0.1,1e9]", "strategy.solver.weight_decays=[0]")
    words += ("dataset=two_digits", "tasks=[left,sum]", "dataset.labels_per_class=null", "dataset.label_fraction=0.1")
    words += ("train.epochs=6", "train.early_stopping=2ep", "train.evaluate_every=1ep", *RANDOM)
    one, _ = run(tmp_path / "one", *words)
    two, _ = run(tmp_path / "two", *words)
    assert parameters(one) == parameters(two) and decided(one) == decided(two)
    for row in rows(one):
        assert row["chosen"] in ("lr=0.01 weight_decay=0", "lr=0.1 weight_decay=0")
        assert np.isfinite(float(row["test/loss"]))
    history = pd.read_csv(one / "history.csv")
    assert {"left", "sum"} <= set(history[history["name"] == "lr"]["task"])


def test_heads_that_are_too_many_are_trained_one_after_another(tmp_path, monkeypatch):
    words = ("strategy=linear_probe_grid", "train.epochs=3", *RANDOM)
    one, _ = run(tmp_path / "one", *words)
    monkeypatch.setattr(grid, "AT_ONCE", 10_000)  # seven heads
    two, _ = run(tmp_path / "two", *words)
    assert "33 heads are trained 7 at a time" in (two / "log.txt").read_text()
    mine, theirs = (rows(one)[0] for one in (one, two))
    assert mine["chosen"] == theirs["chosen"] and float(mine["test/loss"]) == pytest.approx(
        float(theirs["test/loss"]), abs=1e-5
    )


def test_a_grid_where_nothing_converges_fails_with_a_reason(main, tmp_path):
    said = main("train", "strategy=linear_probe_grid", "strategy.solver.lrs=[1e38]", *QUICK, *RANDOM)
    assert said.code == 1 and "Traceback" not in said.all
    assert "for every head of the grid: 'strategy.solver.lrs' should hold smaller rates" in said.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("head.hidden=[8]",), ("'head.hidden'",)),
        (("train.ema=0.9",), ("'train.ema'",)),
        (("train.accumulate=2",), ("'train.accumulate'",)),
        (("optimizer=adamw", "optimizer._target_=torch.optim.Adagrad"), ("torch.optim.SGD", "Adagrad")),
        (("dataset=joint", "dataset.parts=[digits,mnist5k]"), ("one data set",)),
        (("dataset.augment=digits",), ("features.views=4",)),
        (("strategy.solver.lrs=[]",), ("strategy.solver.lrs",)),
        (("strategy.solver.weight_decays=[-1]",), ("strategy.solver.weight_decays",)),
        (("strategy.rules=[{params: '*'}]",), ("frozen for the whole run",)),
    ],
)
def test_what_a_grid_will_not_do(main, words, said):
    refused(main("train", "strategy=linear_probe_grid", *words), *said)


def test_optimizer_and_schedule_of_a_grid_are_the_presets_unless_set():
    plain = tlmtl.compose(["strategy=linear_probe_grid"])
    assert plain.composed.choices["optimizer"] == "sgd" and plain.composed.choices["schedule"] == "cosine"
    other = tlmtl.compose(["strategy=linear_probe_grid", "optimizer=adamw", "schedule=constant"])
    assert other.composed.choices["optimizer"] == "adamw" and other.composed.choices["schedule"] == "constant"
    assert tlmtl.compose(["strategy=linear_probe"]).composed.choices["optimizer"] == "adamw"
    same = tlmtl.compose(["strategy=linear_probe_grid", "optimizer.lr=3", "optimizer.weight_decay=0.3"])
    assert identity.config_hash(same) == identity.config_hash(plain) != identity.config_hash(other)


# runs


def compose(*words: str):
    short = () if "source=none" in words else ("source.train.epochs=1",)
    return pretrain.with_source(tlmtl.compose([*QUICK, *short, *words]))


def run(folder, *words):
    """The folder of a run and its first row."""
    job.execute(compose(*words), folder, folder.name)
    return folder, rows(folder)[0]


def rows(folder):
    with (folder / "results.csv").open() as file:
        return list(csv.DictReader(file))


def of_run(words, split):
    """Features, by the plain backbone, and labels of a split of a run."""
    parts = assemble(compose(*words))
    stream = parts.data["target"].stream(split, parts.encoder.preprocess)
    with torch.inference_mode():
        return parts.model.eval().backbone(stream.input(torch.arange(len(stream)))), next(iter(stream.targets.values()))


def test_a_run_of_logistic_is_scikit_learn_on_the_same_features(tmp_path):
    words = ("strategy=logistic", "dataset.labels_per_class=10")
    _, row = run(tmp_path / "one", *words)
    other = reference(float(row["chosen"].removeprefix("C=")), *of_run(words, "train"))
    for split in ("val", "test"):
        x, y = of_run(words, split)
        expected = torch.from_numpy(other.predict_log_proba(x.double().numpy()))
        assert float(row[f"{split}/loss"]) == pytest.approx(F.nll_loss(expected, y).item(), abs=1e-4)
        accuracy = (expected.argmax(1) == y).double().mean().item()
        assert float(row[f"{split}/accuracy"]) == pytest.approx(accuracy, abs=1e-4)
    for column in ("epochs", "batch_size", "optimizer", "lr", "weight_decay", "weighting"):
        assert row[column] == ""
    assert int(row["steps"]) > 45 and int(row["examples_seen"]) == 100 * int(row["steps"]) == int(row["labels_seen"])
    assert row["engine"] and int(row["parameters_trained"]) == 1290


def test_what_was_tried_is_in_the_history_and_none_is_taken_for_a_curve(tmp_path):
    for strategy, columns in (("knn", ["k=5", "k=10", "k=20", "k=40"]), ("logistic", ["C=1e-06", "C=1.778e-06"])):
        folder, row = run(tmp_path / strategy, f"strategy={strategy}")
        history = pd.read_csv(folder / "history.csv")
        losses = history[history["name"].str.startswith("loss")].set_index("name")["value"]
        assert list(losses.index[: len(columns)]) == [f"loss[{one}]" for one in columns]
        assert losses[f"loss[{row['chosen']}]"] == losses.min() == pytest.approx(float(row["val/loss"]), abs=1e-5)
        assert "loss" not in set(history["name"])
        assert f"digit: {row['chosen']} has the best loss on validation" in (folder / "log.txt").read_text()


@pytest.mark.parametrize("strategy", ["knn", "logistic"])
@pytest.mark.parametrize(
    "words",
    [
        ("dataset.labels_per_class=1", *RANDOM),
        ("dataset=two_digits", "model.pool=2", "tasks=[left,right]", "dataset.labels_per_class=null",
         "dataset.label_fraction=0.1", *RANDOM),
        ("dataset=two_digits", "tasks=[left,right]", "sharing=none", "dataset.labels_per_class=null",
         "dataset.label_fraction=0.1", "fusion=none", *RANDOM),
        ("dataset=joint", "dataset.parts=[digits,mnist5k]", "dataset.labels_per_class=null", *RANDOM),
        ("train.class_weights=balanced", "hardware.precision=bf16-true", *RANDOM),
        ("features.memory_mb=0", *RANDOM),
    ],
    ids=["one", "tasks", "separate", "joint", "bf16", "mapped"],
)  # fmt: skip
def test_runs_of_all_sorts_and_the_same_bytes_again(tmp_path, strategy, words):
    if strategy == "logistic":
        words = (*words, "strategy.solver.strengths=9")
    one, row = run(tmp_path / "one", f"strategy={strategy}", *words)
    two, _ = run(tmp_path / "two", f"strategy={strategy}", *words)
    assert parameters(one) == parameters(two) and decided(one) == decided(two)
    assert (one / "history.csv").read_bytes() == (two / "history.csv").read_bytes()
    for row in rows(one):
        assert row["status"] == "done" and row["chosen"] and float(row["test/loss"]) < 10
    said = np.concatenate(list(pd.read_parquet(one / "predictions.parquet")["output"]))
    assert np.isfinite(said).all()


def test_a_value_is_told_by_neighbours_and_by_no_regression_of_classes(tmp_path, main):
    _, row = run(tmp_path / "one", "strategy=knn", "dataset=two_digits", "tasks=sum", *RANDOM,
                 "dataset.labels_per_class=null", "dataset.label_fraction=0.1")  # fmt: skip
    assert float(row["test/mae"]) < 5
    refused(main("train", "strategy=logistic", "dataset=two_digits", "tasks=sum"), "'sum' (regression)", "strategy=knn")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sharing=mmoe", "dataset=two_digits", "tasks=[left,right]"), ("sharing=hard or sharing=none", "mmoe")),
        (("sharing=cross_stitch", "dataset=two_digits", "tasks=[left,right]"), ("sharing=hard or sharing=none",)),
        (("strategy.rules=[{params: '*'}]",), ("frozen for the whole run",)),
        (("strategy.rules=[{params: 'backbone.*', from: 0.5}, {params: '*'}]",), ("frozen for the whole run",)),
        (("features.cache=never",), ("features.cache=never",)),
        (("term=supcon",), ("the term supcon",)),
        (("tasks=[reconstruction]",), ("a reconstruction needs the images",)),
        (("strategy.solver.nearest=3",), ("strategy.solver.nearest",)),
        (("strategy.solver._target_=os.system",), ("tlmtl.solvers",)),
    ],
)
@pytest.mark.parametrize("strategy", ["knn", "logistic"])
def test_what_will_not_do_is_told_before_anything_starts(main, tmp_path, strategy, words, said):
    refused(main("train", f"strategy={strategy}", *words), *said)
    assert not (tmp_path / "outputs").exists()


def test_a_hidden_layer_is_no_matter_of_logistic_regression(main):
    refused(main("train", "strategy=logistic", "head.hidden=[8]"), "'head.hidden'")
    refused(main("train", "strategy=logistic", "strategy.solver.strengths=many"), "strategy.solver.strengths")


def test_what_the_loop_would_read_is_no_part_of_such_a_run():
    loop = ("optimizer.lr=0.5", "optimizer=sgd", "schedule=cosine", "train.epochs=7", "train.batch_size=8")
    loop += ("head.dropout=0.5", "weighting=uncertainty", "train.clip=1", "dataset.augment=digits", "features.views=2")
    for strategy, own in (("knn", "strategy.solver.temperature=0.1"), ("logistic", "strategy.solver.strengths=9")):
        plain, other = tlmtl.compose([f"strategy={strategy}"]), tlmtl.compose([f"strategy={strategy}", *loop])
        for key in (identity.config_hash, identity.group_id, identity.baseline_id, identity.settings):
            assert key(plain) == key(other)
        for word in (own, "seed=1", "dataset.labels_per_class=3", "train.class_weights=balanced"):
            assert identity.config_hash(tlmtl.compose([f"strategy={strategy}", word])) != identity.config_hash(plain)
    probe = [identity.config_hash(tlmtl.compose(["strategy=linear_probe", word])) for word in ("seed=0", *loop[:1])]
    assert probe[0] != probe[1]


def test_images_are_taken_as_they_are_whatever_augments_them_for_steps(tmp_path):
    plain, _ = run(tmp_path / "plain", "strategy=logistic", *RANDOM)
    for words in (("dataset.augment=digits",), ("dataset.augment=digits", "features.views=2")):
        other, _ = run(tmp_path / "-".join(words), "strategy=logistic", *words, *RANDOM)
        assert parameters(other) == parameters(plain) and decided(other) == decided(plain)


def test_ctrl_c_ends_a_run_that_then_starts_again(tmp_path):
    whole, _ = run(tmp_path / "whole", "strategy=logistic", *RANDOM)
    cfg = compose("strategy=logistic", *RANDOM)
    with pytest.raises(KeyboardInterrupt):
        job.execute(cfg, tmp_path / "begun", "begun", StopAt(3))
    assert rows(tmp_path / "begun")[0]["status"] == "interrupted" and not list(
        (tmp_path / "begun").glob("*.safetensors")
    )
    job.execute(cfg, tmp_path / "begun", "begun")
    assert parameters(tmp_path / "begun") == parameters(whole)


def test_one_sweep_of_all_of_them_makes_one_table(main, tmp_path):
    strategies = "strategy=linear_probe,logistic,knn,linear_probe_grid,finetune_all"
    said = main("train", "-m", strategies, "train.epochs=2", "hardware.workers=1", *QUICK, *RANDOM)
    assert said.code == 0, said.all
    table = pd.read_csv(tmp_path / "outputs" / "sweeps" / "latest" / "results.csv")
    assert len(table) == table["strategy"].nunique() == 5 and set(table["status"]) == {"done"}
    assert table["lr"].notna().sum() == 2 and table["chosen"].notna().sum() == 3
    shown = main("compare", "outputs/sweeps/latest", "--columns", "strategy,lr,chosen,test").out
    for word in ("linear_probe", "linear_probe_grid", "logistic", "knn", "finetune_all", "C=", "k=", "weight_decay="):
        assert word in shown
    assert main("report", "outputs/sweeps/latest", "--out", "page.html").code == 0
    page = (tmp_path / "page.html").read_text()
    assert "train.epochs=null" not in page and "strategy=knn" in page


def test_jobs_that_differ_in_what_a_solver_ignores_are_one(main, tmp_path):
    words = ("strategy=logistic,knn", "optimizer.lr=0.01,0.1", "train.epochs=2,3", "sweep.dry_run=true")
    said = main("train", "-m", *words, *QUICK, *RANDOM)
    assert said.code == 0 and "6 job(s) equal another one" in said.all and "2 run(s): 2 to do" in said.out


def test_the_folder_of_neighbours_predicts_exports_and_is_a_source(main, tmp_path):
    words = ("strategy=knn", "output.root=out", "source.train.epochs=1", *QUICK)
    assert main("train", *words).code == 0
    (folder,) = [path.parent for path in (tmp_path / "out" / "runs").glob("*/run.json") if not path.parent.is_symlink()]
    trained, k = load(folder, []), rows(folder)[0]["chosen"]
    head = trained.model.heads["digit"]
    assert f"k={head.k}" == k and head.examples.shape == (
        40,
        128 if head.examples.shape[1] == 128 else head.examples.shape[1],
    )
    stored = pd.read_parquet(folder / "predictions.parquet")
    mine = stored[stored["split"] == "test"]
    x, _ = of_run(("strategy=knn",), "test")
    with torch.inference_mode():
        np.testing.assert_allclose(head(x), np.stack(mine["output"]), atol=1e-4)
    for form in ("onnx", "pt2", "safetensors"):
        said = main("export", str(folder), "--out", f"model.{form}")
        assert said.code == 0, said.all
    said = main("train", "strategy=linear_probe", "source=run", f"source.path={folder}", "train.epochs=1", *QUICK)
    assert said.code == 0, said.all


def test_a_strangers_neighbours_are_looked_at(main, tmp_path):
    import json

    from safetensors import safe_open
    from safetensors.torch import save_file

    folder, _ = run(tmp_path / "run", "strategy=knn", *RANDOM)
    with safe_open(folder / "model.safetensors", "pt") as file:
        about, tensors = json.loads(file.metadata()["tlmtl"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for change in (
        {"k": 41},
        {"k": True, "temperature": None},
        {"k": "5"},
        {"temperature": 0},
        {"kind": "os"},
        {"smoothing": -1},
    ):
        told = {**about, "heads": {"digit": {**about["heads"]["digit"], **change}}}
        save_file(tensors, folder / "model.safetensors", {"tlmtl": json.dumps(told)})
        with pytest.raises(ConfigError, match="cannot be as it says"):
            load(folder, [])
    for heads in ({"other": {}}, ["digit"], {"digit": 3}):
        save_file(tensors, folder / "model.safetensors", {"tlmtl": json.dumps({**about, "heads": heads})})
        with pytest.raises(ConfigError, match="cannot be built"):
            load(folder, [])

"""What holds for every kind of task: missing labels weigh nothing, parts add up, no constant is better than the best one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn import metrics as sk
from torch.nn import functional as F

from tlmtl.errors import ConfigError
from tlmtl.evaluation import Predictions, measure
from tlmtl.models.decoder import Decoder
from tlmtl.models.heads import LinearHead, MLPHead, make_head
from tlmtl.schema import Head
from tlmtl.schema import Task as Settings
from tlmtl.tasks.classification import Classification
from tlmtl.tasks.kinds import KINDS, make_task, task_from
from tlmtl.tasks.multilabel import Multilabel
from tlmtl.tasks.reconstruction import Reconstruction
from tlmtl.tasks.regression import Regression

torch.set_num_threads(1)
NAN = float("nan")
N = 12
TASKS = {
    "classification": Classification("t", ["x", "y", "z"], ["accuracy"]),
    "weighed": Classification("t", ["x", "y", "z"], ["accuracy"], class_weights=[0.5, 1.0, 2.5]),
    "smoothed": Classification("t", ["x", "y", "z"], ["accuracy"], label_smoothing=0.2),
    "multilabel": Multilabel("t", ["x", "y", "z"], ["accuracy"]),
    "mse": Regression("t", 2.0, 3.0, ["mae"]),
    "l1": Regression("t", 2.0, 3.0, ["mae"], loss_name="l1"),
    "huber": Regression("t", 2.0, 3.0, ["mae"], loss_name="huber", huber_delta=0.3),
    "reconstruction": Reconstruction("t", ["mse", "r2"]),
}
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())


def batch(task, seed: int):
    """Outputs, targets and mask of 12 examples, some of which have no label."""
    random = np.random.default_rng(seed)
    missing = random.random(N) < 0.4
    if task.kind == "reconstruction":
        images = torch.from_numpy(random.normal(size=(2, N, 1, 4, 6))).float()
        return images[0], images[1], torch.from_numpy(~missing)
    column = {
        "classification": np.where(missing, -1, random.integers(0, 3, N)),
        "multilabel": np.where(missing[:, None], NAN, random.choice([0, 1, NAN], (N, 3), p=[0.4, 0.4, 0.2])),
        "regression": np.where(missing, NAN, random.normal(2, 3, N)),
    }[task.kind]
    return torch.from_numpy(random.normal(size=(N, task.outputs))).float(), *task.encode(column)


@every_task
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999))
def test_a_masked_batch_is_the_batch_without_those_rows(task, seed):
    output, target, mask = batch(task, seed)
    for loss in (task.loss, task.training_loss):
        whole, part = output.clone().requires_grad_(), output[mask].clone().requires_grad_()
        masked, less = loss(whole, target, mask), loss(part, target[mask], mask[mask])
        (gradient,), (theirs,) = torch.autograd.grad(masked, whole), torch.autograd.grad(less, part)
        torch.testing.assert_close(masked, less)
        torch.testing.assert_close(gradient[mask], theirs)
        assert gradient[~mask].abs().sum() == 0


@every_task
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), pieces=st.integers(1, 6))
def test_parts_of_a_batch_add_up_to_it(task, seed, pieces):
    output, target, mask = batch(task, seed)
    for loss in (task.loss, task.training_loss):
        parts = [
            loss(output[i], target[i], mask[i]) * (mask[i].sum() / mask.sum().clamp(min=1))
            for i in torch.arange(N).tensor_split(pieces)
        ]
        torch.testing.assert_close(torch.stack(parts).sum(), loss(output, target, mask))


@every_task
def test_a_batch_without_a_label_gives_nothing(task):
    output, target, mask = batch(task, 0)
    loss = task.training_loss(output.requires_grad_(), target, torch.zeros_like(mask))
    assert loss.item() == 0 and torch.autograd.grad(loss, output)[0].abs().sum() == 0


@every_task
def test_a_description_makes_a_task_that_says_the_same(task):
    output, target, _ = batch(task, 1)
    kept, _ = task.kept(output, target)
    again = task_from("t", task.describe())
    torch.testing.assert_close(again.own_unit(kept), task.own_unit(kept))
    assert again.explain(again.own_unit(kept)) == task.explain(task.own_unit(kept))


# losses


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 999), st.integers(1, 30), st.sampled_from(["mse", "l1", "huber"]), st.floats(0.05, 5))
def test_no_constant_is_better_than_a_regressions_best(seed, n, loss, delta):
    values = torch.from_numpy(np.random.default_rng(seed).standard_t(2, n)).float()
    task = Regression("t", 0.0, 1.0, ["mae"], loss_name=loss, huber_delta=delta)

    def of(constant):
        return float(task.loss(torch.full((n, 1), constant).double(), values, torch.ones(n)))

    low, high = float(values.min()), float(values.max())
    found = minimize_scalar(of, bounds=(low - 1e-9, high + 1e-9), method="bounded", options={"xatol": 1e-9})
    tried = min([found.fun, *map(of, values.tolist())])
    assert task.constant_loss(values) == pytest.approx(tried, rel=1e-5, abs=1e-6)


def test_losses_of_a_regression_are_torchs():
    output, target, mask = batch(TASKS["mse"], 3)
    said = output[mask, 0]
    assert TASKS["mse"].loss(output, target, mask) == F.mse_loss(said, target[mask])
    assert TASKS["l1"].loss(output, target, mask) == F.l1_loss(said, target[mask])
    torch.testing.assert_close(TASKS["huber"].loss(output, target, mask), F.huber_loss(said, target[mask], delta=0.3))


def test_labels_are_smoothed_in_training_alone():
    task = TASKS["smoothed"]
    output, target, mask = batch(task, 4)
    smoothed = F.cross_entropy(output[mask], target[mask], label_smoothing=0.2)
    torch.testing.assert_close(task.training_loss(output, target, mask), smoothed)
    assert task.loss(output, target, mask) == TASKS["classification"].loss(output, target, mask) != smoothed
    assert task.constant_loss(target[mask]) == TASKS["classification"].constant_loss(target[mask])


# metrics


@pytest.mark.parametrize("classes", [2, 4])
def test_metrics_of_a_classification_are_scikit_learns(classes):
    random = np.random.default_rng(classes)
    target = random.integers(0, classes, 300)
    scores = random.normal(size=(300, classes)) + np.eye(classes)[target]
    task = Classification("t", list("abcd"[:classes]), list(KINDS["classification"][0]))
    found = task.measure(torch.from_numpy(scores), torch.from_numpy(target))
    shares = torch.from_numpy(scores).softmax(1).numpy()
    auroc = sk.roc_auc_score(target, shares if classes > 2 else shares[:, 1], multi_class="ovr", average="macro")
    assert found["auroc"] == pytest.approx(auroc, abs=1e-6)
    assert found["balanced_accuracy"] == found["mean_class_accuracy"]
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(target, scores.argmax(1)), abs=1e-6)
    assert found["ece"] == pytest.approx(calibration_error(shares.max(1), shares.argmax(1) == target), abs=1e-6)


def calibration_error(confidence, right):
    error = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            error += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    return error


def test_auroc_is_over_the_classes_that_are_there():
    task = Classification("t", ["a", "b", "c"], ["auroc", "accuracy"])
    scores = torch.tensor([[3.0, 0, 0], [2, 1, 0], [0, 2, 9], [0, 3, 0]])
    assert task.measure(scores, torch.tensor([0, 0, 1, 1]))["auroc"] == pytest.approx((1 + 0.5) / 2)
    assert list(task.measure(scores, torch.tensor([1, 1, 1, 1]))) == ["accuracy"]


def test_metrics_of_several_labels_are_scikit_learns():
    random = np.random.default_rng(0)
    target = random.integers(0, 2, (200, 2)).astype(np.float32)
    scores = random.normal(size=(200, 2)) + target
    task = Multilabel("t", ["a", "b"], ["balanced_accuracy", "ece"])
    target[:5, 0] = NAN
    found = task.measure(torch.from_numpy(scores), torch.from_numpy(target))
    each, errors = [], []
    for i in range(2):
        known = ~np.isnan(target[:, i])
        share, true = 1 / (1 + np.exp(-scores[known, i])), target[known, i]
        each.append(sk.balanced_accuracy_score(true, share > 0.5))
        errors.append(calibration_error(share, true))
    assert found["balanced_accuracy"] == pytest.approx(np.mean(each)) and found["ece"] == pytest.approx(
        np.mean(errors), abs=1e-6
    )


# reconstruction


def test_what_is_kept_of_reconstructions_says_the_same_as_the_images():
    task = TASKS["reconstruction"]
    output, target, _ = batch(task, 5)
    kept, moments = task.kept(output, target)
    assert kept.shape == (N, 1) and moments.shape == (N, 2)
    everyone = torch.ones(N, dtype=torch.bool)
    torch.testing.assert_close(task.loss(kept, moments, everyone), F.mse_loss(output, target))
    assert task.constant_loss(moments) == pytest.approx(target.var(correction=0).item(), rel=1e-5)
    found = measure(task, Predictions({"t": kept}, {"t": moments}, {"t": everyone}))
    assert found["loss"] == pytest.approx(found["mse"]) == pytest.approx(F.mse_loss(output, target).item())
    expected = sk.r2_score(target.flatten().numpy(), output.flatten().numpy())
    assert found["r2"] == pytest.approx(expected, rel=1e-4)
    grey = torch.full((3, 1, 2, 2), 0.3)
    assert list(task.measure(*task.kept(torch.zeros_like(grey), grey))) == ["mse"]


@pytest.mark.parametrize(
    "shape", [(1, 8, 8), (1, 16, 28), (3, 7, 7), (1, 1, 5), (3, 9, 31), (3, 64, 17), (3, 224, 224)]
)
def test_a_decoder_makes_images_of_the_inputs_shape(shape):
    decoder = make_head(TASKS["reconstruction"], 24, shape, Head())
    assert isinstance(decoder, Decoder)
    made = decoder(torch.rand(2, 24))
    assert made.shape == (2, *shape)
    assert 0 < made.std() < 0.2  # near grey
    made.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in decoder.parameters())


def test_a_decoder_learns_the_pictures_it_is_given():
    torch.manual_seed(0)
    features, pictures = torch.eye(4), torch.randn(4, 1, 8, 8)
    decoder = Decoder(4, (1, 8, 8))
    optimizer = torch.optim.Adam(decoder.parameters(), lr=5e-3)
    for _ in range(300):
        optimizer.zero_grad()
        F.mse_loss(decoder(features), pictures).backward()
        optimizer.step()
    assert F.mse_loss(decoder(features), pictures) < 0.05 * pictures.var()


# heads


def test_a_head_is_linear_or_has_hidden_layers():
    task = TASKS["classification"]
    linear = make_head(task, 8, (1, 8, 8), Head(dropout=0.5))
    assert isinstance(linear, LinearHead) and linear(torch.zeros(2, 8)).shape == (2, 3)
    head = make_head(task, 8, (1, 8, 8), Head(hidden=[16, 4], dropout=0.25))
    assert isinstance(head, MLPHead)
    shapes = {name: tuple(p.shape) for name, p in head.named_parameters() if name.endswith("weight")}
    assert shapes == {"hidden.1.weight": (16, 8), "hidden.4.weight": (4, 16), "last.linear.weight": (3, 4)}
    assert head.last.linear.weight.std() < 0.02 and head.last.linear.bias.abs().sum() == 0
    assert [m.p for m in head.modules() if isinstance(m, torch.nn.Dropout)] == [0.25] * 3
    features = torch.randn(5, 8)
    layer = head.eval().hidden
    by_hand = layer[4](layer[1](features).relu()).relu() @ head.last.linear.weight.T
    torch.testing.assert_close(head(features), by_hand)
    for hidden in ([0], [16, -1]):
        with pytest.raises(ConfigError, match=r"'head.hidden' should list sizes of 1 or more, such as \[128\]"):
            make_head(task, 8, (1, 8, 8), Head(hidden=hidden))


# settings


@pytest.mark.parametrize(
    ("kind", "more", "message"),
    [
        ("regression", {"loss": "l2"}, r"'dataset.tasks.m.loss' of a regression should be mse or l1 or huber. Found 'l2'"),
        ("classification", {"loss": "l1"}, r"of a classification should be cross_entropy. Found 'l1'. That is of a regression"),
        ("multilabel", {"loss": "mse"}, r"of a multilabel should be binary_cross_entropy. Found 'mse'"),
        ("regression", {"label_smoothing": 0.1}, r"is for classifications, and 'dataset.tasks.m' is a regression"),
        ("classification", {"label_smoothing": 1.0}, r"from 0 up to, not including, 1. Found 1.0"),
        ("classification", {"label_smoothing": -0.1}, r"from 0 up to, not including, 1. Found -0.1"),
        ("classification", {"label_smoothing": NAN}, r"from 0 up to, not including, 1. Found nan"),
        ("regression", {"loss": "huber", "huber_delta": 0.0}, r"huber_delta' should be above 0.*Found 0.0"),
        ("regression", {"loss": "huber", "huber_delta": NAN}, r"huber_delta' should be above 0.*Found nan"),
        ("regression", {"huber_delta": 0.5}, r"is read with dataset.tasks.m.loss=huber alone. Found 0.5"),
        ("reconstruction", {"loss": "l1"}, r"of a reconstruction should be mse. Found 'l1'"),
    ],
)  # fmt: skip
def test_settings_that_a_kind_does_not_take(kind, more, message):
    column = {"classification": [0, 1], "multilabel": [[0.0, 1]], "regression": [0.5, 1], "reconstruction": []}[kind]
    classes = ["a", "b"] if kind in ("classification", "multilabel") else None
    with pytest.raises(ConfigError, match=message):
        make_task("m", Settings(kind=kind, **more), np.asarray(column), classes)


def test_settings_that_a_kind_takes():
    column = np.array([1.0, 3.0])
    made = make_task("m", Settings(kind="regression", loss="huber", huber_delta=0.5), column, None)
    assert made == Regression("m", 2.0, 1.0, ["mae", "r2"], loss_name="huber", huber_delta=0.5)
    made = make_task("m", Settings(loss="cross_entropy", label_smoothing=0.1), np.array([0, 1]), ["a", "b"])
    assert made == Classification("m", ["a", "b"], ["accuracy", "macro_f1"], label_smoothing=0.1)
    with pytest.raises(ConfigError, match=r"two classes at least in the training split. Found 1: b"):
        make_task("m", Settings(), np.array([1, 1, -1]), ["a", "b"])
    with pytest.raises(ConfigError, match=r"is a regression, but its labels are classes, not numbers"):
        make_task("m", Settings(kind="regression"), np.array([1, 0]), ["a", "b"])

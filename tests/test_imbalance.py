"""Classes of unequal size: weights in the loss, and how often examples are drawn."""

import csv

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

import tlmtl
from tlmtl import identity, job, pretrain
from tlmtl.assemble import assemble
from tlmtl.columns import MEASURED
from tlmtl.data.streams import plan
from tlmtl.errors import ConfigError
from tlmtl.progress import Silent
from tlmtl.tasks.classification import Classification
from tlmtl.tasks.imbalance import class_weights, draw_weights, with_class_weights
from tlmtl.tasks.regression import Regression

torch.set_num_threads(1)
COUNTS = torch.tensor([6, 3, 1])
LABELS = torch.tensor([0] * 6 + [1] * 3 + [2])
THERE = torch.ones(10, dtype=torch.bool)


def classes(name="c", weights=None) -> Classification:
    return Classification(name, ["x", "y", "z"], ["accuracy"], class_weights=weights)


def value() -> Regression:
    return Regression("r", 0.0, 1.0, ["mae"])


# weights of classes


def test_balanced_weights_are_scikit_learns():
    expected = compute_class_weight("balanced", classes=np.arange(3), y=LABELS.numpy())
    assert class_weights(COUNTS, "balanced").tolist() == pytest.approx(expected.tolist())
    assert expected.tolist() == pytest.approx([10 / 18, 10 / 9, 10 / 3])


def test_effective_weights_by_hand():
    counts = torch.tensor([2, 1])
    first, second = 0.001 / (1 - 0.999**2), 1.0
    scale = 3 / (2 * first + second)
    assert class_weights(counts, "effective").tolist() == pytest.approx([first * scale, second * scale])
    many = class_weights(torch.tensor([100_000, 50_000]), "effective")  # so many that more add nothing
    assert many.tolist() == pytest.approx([1, 1])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5000), min_size=2, max_size=8).filter(any), st.sampled_from(["balanced", "effective"]))
def test_the_mean_weight_of_the_training_examples_is_one(counts, how):
    n = torch.tensor(counts)
    weights = class_weights(n, how)
    assert ((n * weights).sum() / n.sum()).item() == pytest.approx(1)
    assert weights.isfinite().all() and weights.min() > 0
    fewer = n.clamp(min=1).argsort()
    assert (weights[fewer].diff() <= 1e-12).all()  # the rarer, the heavier


def test_the_weighted_loss_by_hand():
    weights = class_weights(COUNTS, "balanced").tolist()
    output = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    mask = THERE.clone()
    mask[[0, 7]] = False
    each = F.cross_entropy(output, LABELS, reduction="none") * torch.tensor(weights)[LABELS]
    torch.testing.assert_close(classes(weights=weights).loss(output, LABELS, mask), each[mask].sum() / 8)
    assert classes(weights=[1.0, 1.0, 1.0]).loss(output, LABELS, mask) == classes().loss(output, LABELS, mask)


@pytest.mark.parametrize("weights", [None, [0.5, 1.5, 4.0]])
def test_the_best_constant_under_weights(weights):
    task = classes(weights=weights)
    constant = torch.zeros(1, 3, requires_grad=True)
    optimizer = torch.optim.LBFGS([constant], lr=1, max_iter=200, line_search_fn="strong_wolfe")

    def step():
        optimizer.zero_grad()
        loss = task.loss(constant.expand(10, -1), LABELS, THERE)
        loss.backward()
        return loss

    optimizer.step(step)
    assert task.constant_loss(LABELS) == pytest.approx(step().item(), rel=1e-5)
    mass = COUNTS * torch.tensor(weights or [1.0] * 3)
    torch.testing.assert_close(constant.detach().softmax(1)[0], mass / mass.sum(), rtol=1e-3, atol=1e-4)


def test_every_classification_is_weighed_and_nothing_else():
    labels = {"r": (torch.zeros(10), THERE), "c": (LABELS, THERE), "d": (LABELS.flip(0), LABELS.flip(0) > 0)}
    given_ = {"r": value(), "c": classes(), "d": classes("d")}
    made = with_class_weights(given_, labels, "balanced")
    assert list(made) == ["r", "c", "d"] and made["r"] == given_["r"] and given_["c"].class_weights is None
    assert made["c"].class_weights == pytest.approx([10 / 18, 10 / 9, 10 / 3])
    assert made["d"].class_weights == pytest.approx(class_weights(torch.tensor([0, 3, 1]), "balanced").tolist())
    assert with_class_weights(given_, labels, None) == given_


# drawing


def test_balanced_draws_make_classes_equally_likely():
    weights = draw_weights({"r": value(), "c": classes()}, {"c": (LABELS, THERE)}, "balanced")
    assert torch.bincount(LABELS, weights).tolist() == pytest.approx([1 / 3] * 3)
    drawn = torch.cat([step["target"] for epoch in range(600) for step in plan({"target": 10}, 4, 0, epoch, weights)])
    assert len(drawn) == 6000
    assert (torch.bincount(LABELS[drawn]) / 6000).tolist() == pytest.approx([1 / 3] * 3, abs=0.02)
    assert (torch.bincount(drawn)[:6] / 6000).tolist() == pytest.approx([1 / 18] * 6, abs=0.012)


def test_examples_without_the_label_keep_their_share():
    there = LABELS != 1
    weights = draw_weights({"c": classes()}, {"c": (LABELS * there, there)}, "balanced")
    assert weights.sum().item() == pytest.approx(1)
    assert weights[6:9].tolist() == pytest.approx([0.1] * 3)
    assert weights[0].item() == pytest.approx(0.35 / 6) and weights[9].item() == pytest.approx(0.35)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 80), st.integers(1, 30), st.integers(0, 5), st.integers(0, 5))
def test_an_epoch_has_the_steps_and_batches_that_it_has_without_weights(size, batch_size, seed, epoch):
    sizes, weights = {"target": size, "other": 7}, torch.arange(1.0, size + 1)
    drawn, again = (plan(sizes, batch_size, seed, epoch, weights) for _ in range(2))
    plain = plan(sizes, batch_size, seed, epoch)
    assert [len(step["target"]) for step in drawn] == [len(step["target"]) for step in plain]
    for step, same, shuffled in zip(drawn, again, plain, strict=True):
        assert torch.equal(step["target"], same["target"]) and torch.equal(step["other"], shuffled["other"])
        assert step["target"].min() >= 0 and step["target"].max() < size


def test_epochs_and_seeds_have_draws_of_their_own():
    weights = torch.ones(50)
    drawn = {tuple(plan({"target": 50}, 50, s, e, weights)[0]["target"].tolist()) for s in (0, 1) for e in (0, 1)}
    assert len(drawn) == 4


# from the config


def compose(*overrides: str):
    return tlmtl.compose(["strategy=from_scratch", "model.width=4", "progress=false", *overrides])


def test_the_config_reaches_the_tasks_and_the_plan():
    parts = assemble(
        compose("dataset.labels_per_class=null", "train.class_weights=effective", "train.sampler=balanced")
    )
    labels = parts.data["target"].labels("train")["digit"][0]
    counts = torch.bincount(labels)
    assert parts.tasks["digit"].class_weights == pytest.approx(class_weights(counts, "effective").tolist())
    assert torch.bincount(labels, parts.draw_weights["target"]).tolist() == pytest.approx([0.1] * 10)
    plain = assemble(compose())
    assert plain.draw_weights["target"] is None and plain.tasks["digit"].class_weights is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.class_weights=balance",
            r"'train.class_weights' should be balanced, effective or null for none. Found 'balance'. Did you mean 'balanced'\?",
        ),
        ("train.sampler=shufle", r"should be shuffle or balanced. Found 'shufle'. Did you mean 'shuffle'\?"),
        (
            "train.sampler=balanced tasks=ink",
            r"'train.sampler=balanced' needs a classification .* Found ink \(regression\)",
        ),
        ("train.class_weights=balanced tasks=ink", r"'train.class_weights=balanced' needs a classification"),
    ],
)
def test_wrong_settings_are_told(override, message):
    with pytest.raises(ConfigError, match=message):
        assemble(compose(*override.split()))


def test_pre_training_has_settings_of_its_own():
    cfg = tlmtl.compose(["train.class_weights=balanced", "train.sampler=balanced", "tasks=all"])
    assert identity.config_hash(cfg) != identity.config_hash(tlmtl.compose(["tasks=all"]))
    assert list(cfg.composed.overrides) == ["train.class_weights=balanced", "train.sampler=balanced"]
    source = pretrain.source_config(cfg)
    assert source.train.class_weights is None and source.train.sampler == "shuffle"
    other = pretrain.source_config(tlmtl.compose(["+source.train.sampler=balanced"]))
    assert other.train.sampler == "balanced"


class StopAt(Silent):
    def step(self, step, losses):
        if step == 5:
            raise KeyboardInterrupt


def test_a_run_with_both_resumes_to_the_same(tmp_path):
    durations = ["epochs=4", "batch_size=20", "evaluate_every=2st", "checkpoint_every=3st"]
    cfg = compose(*(f"train.{item}" for item in durations), "train.sampler=balanced", "train.class_weights=balanced")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    job.execute(cfg, whole, "whole")
    with pytest.raises(KeyboardInterrupt):
        job.execute(cfg, stopped, "stopped", StopAt())
    job.execute(cfg, stopped, "stopped")
    rows = [next(csv.DictReader((folder / "results.csv").open())) for folder in (whole, stopped)]
    first, second = ({k: v for k, v in row.items() if k not in [*MEASURED, "run_id"]} for row in rows)
    assert first == second and first["status"] == "done" and float(first["val/loss"]) > 0
    assert (whole / "model.safetensors").read_bytes() == (stopped / "model.safetensors").read_bytes()

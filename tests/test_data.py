"""What each step draws, how data are split, which labels are kept, and what the embedded data sets hold."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import tlmtl
from tlmtl.data.dataset import load
from tlmtl.data.digits import digits
from tlmtl.data.images import ArrayImages
from tlmtl.data.mnist5k import mnist5k
from tlmtl.data.splits import cut
from tlmtl.data.streams import Stream, plan, steps_per_epoch
from tlmtl.data.subset import subset
from tlmtl.data.two_digits import two_digits
from tlmtl.errors import ConfigError
from tlmtl.preprocess import Preprocess
from tlmtl.tasks.classification import Classification
from tlmtl.tasks.regression import Regression

torch.set_num_threads(1)
AS_IS = Preprocess(8, None, (0.5,), (0.5,))
LABELS = st.lists(st.integers(3, 40), min_size=2, max_size=5).map(lambda counts: np.repeat(range(len(counts)), counts))


def data(*overrides: str):
    cfg = tlmtl.compose(list(overrides))
    return load(cfg.dataset, cfg.tasks, [])


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 200), st.integers(1, 50), st.integers(1, 64), st.integers(0, 9), st.integers(0, 5))
def test_plan_is_pure_and_draws_every_index_once(size, other, batch_size, seed, epoch):
    sizes = {"target": size, "source": other}
    drawn, again = plan(sizes, batch_size, seed, epoch), plan(dict(reversed(sizes.items())), batch_size, seed, epoch)
    assert [step["target"].tolist() for step in drawn] == [step["target"].tolist() for step in again]
    assert [step["source"].tolist() for step in drawn] == [step["source"].tolist() for step in again]
    assert sorted(torch.cat([step["target"] for step in drawn]).tolist()) == list(range(size))
    lengths = [len(step["target"]) for step in drawn]
    assert max(lengths) <= batch_size and max(lengths) - min(lengths) <= 1
    assert len(drawn) == steps_per_epoch(size, batch_size) == -(-size // batch_size)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 60), st.integers(1, 30), st.integers(1, 16))
def test_other_streams_go_on_where_they_were(size, other, batch_size):
    epochs = [plan({"target": size, "source": other}, batch_size, 0, epoch) for epoch in range(3)]
    steps = [step["source"] for epoch in epochs for step in epoch]
    assert {len(step) for step in steps} == {batch_size}
    flow = torch.cat(steps)
    for start in range(0, len(flow) - other + 1, other):  # each pass holds each of them once
        assert sorted(flow[start : start + other].tolist()) == list(range(other))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {tuple(plan({"target": 50}, 50, seed, epoch)[0]["target"].tolist()) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4


@settings(max_examples=50, deadline=None)
@given(LABELS, st.integers(0, 5))
def test_splits_are_disjoint_and_stratified(labels, seed):
    parts = cut(labels, 0.2, 0.25, seed)
    assert np.sort(np.concatenate(list(parts.values()))).tolist() == list(range(len(labels)))
    for name, share in (("val", 0.2), ("test", 0.25)):
        for number in np.unique(labels):
            count = (labels[parts[name]] == number).sum()
            assert count >= 1 and abs(count - share * (labels == number).sum()) < 1
    assert all(set(labels[part]) == set(labels) for part in parts.values())


@settings(max_examples=50, deadline=None)
@given(LABELS, st.integers(0, 5), st.data())
def test_a_smaller_subset_is_part_of_a_larger(labels, seed, draw):
    train = cut(labels, 0.2, 0.25, seed)["train"]
    most = min(np.bincount(labels[train]))
    few, many = sorted(draw.draw(st.tuples(st.integers(1, most), st.integers(1, most))))
    small, large = subset(train, labels, few, None, seed), subset(train, labels, many, None, seed)
    assert np.bincount(labels[small]).tolist() == [few] * len(set(labels))
    assert set(small) <= set(large) <= set(train)
    half, whole = subset(train, labels, None, 0.5, seed), subset(train, labels, None, 1.0, seed)
    assert set(half) < set(whole) == set(train) or len(train) == len(set(labels))


def test_splits_ignore_the_seed_and_validation_never_joins_train():
    first, second, one = data("seed=0"), data("seed=1"), data("seed=1", "dataset.labels_per_class=1")
    for split in ("val", "test"):
        assert first.splits[split].tolist() == second.splits[split].tolist() == one.splits[split].tolist()
    assert first.hash == second.hash == one.hash
    assert first.subset_hash != second.subset_hash
    assert set(one.splits["train"]) < set(second.splits["train"])
    whole = data("dataset.labels_per_class=null")
    for found, size in ((one, 10), (first, 50), (whole, 1797 - 359 - 449)):
        splits = [set(found.splits[name]) for name in ("train", "val", "test")]
        assert abs(len(splits[0]) - size) <= 10 and not splits[0] & (splits[1] | splits[2])
    other = data("dataset.split_seed=1")
    assert other.splits["test"].tolist() != first.splits["test"].tolist() and other.hash != first.hash


def test_more_labels_than_there_are_and_classes_too_small():
    with pytest.raises(
        ConfigError, match=r"'dataset.labels_per_class' is 900, but class '0' has 9\d training examples"
    ):
        data("dataset.labels_per_class=900")
    with pytest.raises(ConfigError, match=r"not both: found 5 and 0.5"):
        data("dataset.label_fraction=0.5")
    with pytest.raises(ConfigError, match=r"Class 'b' has 1 example\(s\), and needs at least 3"):
        cut(np.array([0, 0, 0, 1, 0]), 0.2, 0.25, 0, names=["a", "b"])
    with pytest.raises(ConfigError, match=r"'dataset.val_fraction'.* Found 0.8"):
        cut(np.zeros(9, int), 0.8, 0.25, 0)
    three = cut(np.array([0, 0, 0]), 0.9, 0.05, 0)
    assert [len(three[name]) for name in ("train", "val", "test")] == [1, 1, 1]


def test_embedded_data_sets():
    scans = digits()
    assert scans.images.pixels.shape == (1797, 1, 8, 8)
    assert int(scans.images.pixels.max()) == 255 and scans.images.channels == 1
    assert list(scans.columns) == ["digit", "parity", "ink"] and scans.classes["parity"] == ["even", "odd"]
    assert (scans.columns["digit"] % 2 == scans.columns["parity"]).all()
    assert 0 < scans.columns["ink"].min() < scans.columns["ink"].max() < 1
    assert len(set(scans.hashes.tolist())) == 1797
    mnist = mnist5k()
    assert mnist.images.pixels.shape == (5000, 1, 28, 28)
    assert np.bincount(mnist.columns["digit"]).tolist() == [500] * 10


def test_two_digits_keeps_scans_on_one_side():
    pairs = two_digits(200, 60, 100, overlap=3, split_seed=4)
    assert pairs.images.pixels.shape == (360, 1, 8, 13)
    assert (pairs.columns["left"] + pairs.columns["right"] == pairs.columns["sum"]).all()
    scans = {split: set() for split in ("train", "val", "test")}
    for pair, split in zip(pairs.ids, pairs.split, strict=True):
        scans[str(split)] |= set(pair.split("+"))
    assert min(len(found) for found in scans.values()) > 50
    assert not scans["train"] & scans["val"] | scans["train"] & scans["test"] | scans["val"] & scans["test"]
    label = digits().columns["digit"]
    assert [label[int(pair.split("+")[1])] for pair in pairs.ids] == pairs.columns["right"].tolist()
    with pytest.raises(ConfigError, match=r"'dataset.val' should be 1 or more.* Found 0"):
        two_digits(200, 0, 100)
    assert list(data("dataset=two_digits", "tasks=[sum,left]").tasks) == ["left", "sum"]
    with pytest.raises(ConfigError, match=r"Unknown task 'lef'. Did you mean 'left'\?"):
        data("dataset=two_digits", "tasks=lef")


@pytest.mark.parametrize(
    ("task", "column"),
    [
        (Classification("c", ["a", "b", "c"], ["accuracy"]), np.array([0, -1, 2, 1, -1])),
        (Regression("r", 2.0, 3.0, ["mae"]), np.array([0.5, np.nan, 4.0, -1.0, np.nan])),
    ],
)
def test_a_missing_label_gives_no_loss(task, column):
    target, mask = task.encode(column)
    assert mask.tolist() == [True, False, True, True, False]
    output = torch.randn(5, task.outputs, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = task.loss(output, target, mask)
    (gradient,) = torch.autograd.grad(loss, output)
    kept = output[mask].detach().requires_grad_()
    plain = (
        F.cross_entropy(kept, target[mask]) if task.kind == "classification" else F.mse_loss(kept[:, 0], target[mask])
    )
    (expected,) = torch.autograd.grad(plain, kept)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-6) and loss.item() > 0
    torch.testing.assert_close(gradient[mask], expected)
    assert gradient[~mask].abs().sum() == 0
    assert task.own_target(target)[mask].tolist() == pytest.approx(column[mask.numpy()].tolist())


def test_a_task_without_labels_in_a_part_is_left_out():
    images = ArrayImages(np.zeros((4, 1, 8, 8), np.uint8))
    labels, there = torch.zeros(4, dtype=torch.long), torch.tensor([True, False, False, True])
    whole = torch.ones(4, dtype=torch.bool)
    stream = Stream("train", images, torch.arange(4), {"a": labels, "b": labels}, {"a": there, "b": whole}, AS_IS)
    assert list(stream.part(torch.tensor([1, 2])).targets) == ["b"]
    part = stream.part(torch.tensor([3, 1]))
    assert part.mask["a"].tolist() == [True, False] and list(part.targets) == ["a", "b"]
    assert [list(piece.targets) for piece in part.chunks(2)] == [["a", "b"], ["b"]]
    assert [piece.index.tolist() for piece in part.chunks(9)] == [[3], [1]]


def test_folders_inside_class_folders_are_told(tmp_path):
    from PIL import Image

    from tlmtl.data.folder import folder

    for name in ("a", "b", "a/inner"):
        (tmp_path / name).mkdir(exist_ok=True)
        for i in range(3):
            Image.new("L", (8, 8), i).save(tmp_path / name / f"{i}.png")
    found = folder(str(tmp_path))
    assert len(found) == 6 and found.notes == [
        f"Passed over: 1 folder(s) inside the folders of classes, such as {tmp_path / 'a/inner'}."
    ]

"""Folds and groups: what may stand on which side of a split."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from own import loaded, picture, table_of

from tlmtl.data.examples import Examples
from tlmtl.data.folds import cut_groups, folds, parse
from tlmtl.data.images import ArrayImages
from tlmtl.data.splits import divide
from tlmtl.errors import ConfigError

EASY = settings(deadline=None, max_examples=40)


def examples(labels, groups=None, split=None):
    """Examples of these classes, with images that are of no interest."""
    labels = np.asarray(labels)
    names = [f"c{i}" for i in range(labels.max() + 1)]
    images = ArrayImages(np.zeros((len(labels), 1, 1, 1), np.uint8))
    return Examples(images, {"label": labels}, {"label": names}, [str(i) for i in range(len(labels))], split, groups)


def parts(found):
    """The splits as one sorted list of indices."""
    return sorted(np.concatenate(list(found.values())).tolist())


# Folds


@EASY
@given(st.lists(st.integers(0, 3), min_size=12, max_size=80), st.integers(2, 6), st.integers(0, 2**63 - 1))
def test_folds_hold_every_example_once_and_classes_evenly(classes, n, seed):
    labels = np.array([*classes, *range(4)] * n)  # at least n of each class
    found = folds(labels, None, n, seed, None, len(labels))
    assert sorted(np.concatenate(found).tolist()) == list(range(len(labels))) and len(found) == n
    for label in range(4):
        counts = [int((labels[fold] == label).sum()) for fold in found]
        assert max(counts) - min(counts) <= 1
    again = folds(labels, None, n, seed, None, len(labels))
    assert all(np.array_equal(one, other) for one, other in zip(found, again, strict=True))


@EASY
@given(st.integers(2, 5), st.integers(0, 1000), st.data())
def test_the_folds_of_a_data_set_test_every_example_once(n, seed, data):
    labels = np.array(data.draw(st.lists(st.integers(0, 2), min_size=6 * n, max_size=60)) + list(range(3)) * 4 * n)
    tested = []
    for number in range(1, n + 1):
        found = divide(examples(labels), 0.2, 0.25, seed, f"{number}/{n}")
        assert parts(found) == list(range(len(labels)))
        assert all(set(labels[where]) == {0, 1, 2} for where in found.values())
        assert abs(len(found["val"]) / len(labels) - 0.2) < 0.1
        tested += found["test"].tolist()
    assert sorted(tested) == list(range(len(labels)))


@EASY
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 1)), min_size=20, max_size=90),
    st.integers(2, 4),
    st.integers(0, 99),
)
def test_folds_keep_groups_whole(drawn, n, seed):
    drawn += [(group, label) for group in range(10) for label in (0, 1)]  # every class in every group
    groups, labels = np.array([f"p{g}" for g, _ in drawn]), np.array([label for _, label in drawn])
    for kind in (labels, None):
        found = folds(kind, groups, n, seed, None, len(groups))
        assert sorted(np.concatenate(found).tolist()) == list(range(len(groups)))
        assert len(np.unique(groups)) == sum(len(np.unique(groups[fold])) for fold in found)
    for number in range(1, n + 1):
        found = divide(examples(labels, groups), 0.2, 0.25, seed, f"{number}/{n}", groups)
        assert parts(found) == list(range(len(groups)))
        assert len(np.unique(groups)) == sum(len(np.unique(groups[where])) for where in found.values())


@EASY
@given(st.integers(30, 60), st.floats(0.1, 0.3), st.floats(0.1, 0.3), st.integers(0, 99))
def test_groups_and_fractions(count, val, test, seed):
    groups = np.repeat(np.arange(count), 3)
    labels = (np.arange(len(groups)) + groups) % 2
    for kind in (labels, None):
        found = cut_groups(kind, groups, val, test, seed, None)
        assert parts(found) == list(range(len(groups)))
        assert count == sum(len(np.unique(groups[where])) for where in found.values())
        for name, share in (("val", val), ("test", test)):
            assert abs(len(found[name]) / len(groups) - share) < 0.06
    assert parts(cut_groups(labels, groups, val, 0, seed, None)) == list(range(len(groups)))


def test_a_huge_group_is_trained_on():
    groups = np.array([0] * 60 + list(range(1, 21)) * 2)
    for seed in range(5):
        for labels in (None, np.arange(100) % 2):
            found = cut_groups(labels, groups, 0.2, 0.2, seed, None)
            assert len(found["train"]) >= 60 and set(found["train"][groups[found["train"]] == 0]) == set(range(60))
            assert 15 <= len(found["val"]) <= 25 and 15 <= len(found["test"]) <= 25


def test_groups_of_a_table_stay_together(tmp_path):
    rows = [[picture(tmp_path / f"{i}.png", i).name, "ab"[i % 2], f"p{i // 4}" if i < 36 else ""] for i in range(40)]
    path = str(table_of(tmp_path, rows, ["image", "label", "patient"]))
    data = loaded("table", path=path, group_column="patient")
    assert list(data.tasks) == ["label"] and data.examples.groups[36:].tolist() == [f"row {i}" for i in range(38, 42)]
    sides = [set(data.examples.groups[where]) for where in data.splits.values()]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 13  # a row without a group is one of its own
    for where in data.splits.values():
        assert len(set(data.examples.columns["label"][where])) == 2


@pytest.mark.parametrize("text", ["0/5", "6/5", "1/1", "1/0"])
def test_a_fold_outside_its_range(text):
    with pytest.raises(
        ConfigError, match=rf"'dataset.fold' should be K/N with K from 1 to N, and N 2 or more. Found {text}"
    ):
        parse(text)


@pytest.mark.parametrize("text", ["1", "1-5", "a/b", "-1/5", "all/5", "1/5/2"])
def test_a_fold_that_is_none(text):
    with pytest.raises(
        ConfigError, match=rf"'dataset.fold' should be K/N, such as 1/5. Found '{text}'. .*-m dataset.fold=all/5"
    ):
        parse(text)


def test_folds_that_cannot_be_made():
    def refused(words, *args, **more):
        with pytest.raises(ConfigError, match=words):
            divide(*args, **more)

    few = examples([0] * 20 + [1] * 4)
    refused(r"Class 'c1' has 4 example\(s\), fewer than 5 folds. Choose fewer folds", few, 0.2, 0.25, 0, "1/5")
    one = np.array(["a"] * 10 + ["b"] * 10 + ["c"] * 4)
    refused(
        r"All examples of class 'c1' are of one group \('c'\), so they cannot be trained on and tested",
        few, 0.2, 0.25, 0, "1/3", groups=one,
    )  # fmt: skip
    mixed = examples([0, 1] * 12)
    refused(r"3 group\(s\) cannot be divided into 4 parts .*\(dataset.group_column\). Add groups",
            mixed, 0.2, 0.25, 0, "1/4", groups=np.arange(24) % 3)  # fmt: skip
    refused(r"2 group\(s\) cannot be divided into 3 parts", mixed, 0.2, 0.25, 0, groups=np.arange(24) // 12)
    own = examples([0, 1] * 12, split=np.array(["train"] * 20 + ["test"] * 4))
    refused(
        r"'dataset.fold=1/5' divides all examples, but this data set has splits of its own",
        own,
        0.2,
        0.25,
        0,
        "1/5",
    )
    refused(
        r"'dataset.val_fraction' should leave some to train on beside a fold of 1/2. Found 0.5",
        mixed,
        0.5,
        0.25,
        0,
        "1/2",
    )
    refused(r"asks for 9 folds of 5 examples", Examples(ArrayImages(np.zeros((5, 1, 1, 1), np.uint8)), {}, {}, list("abcde")),
            0.2, 0.25, 0, "1/9")  # fmt: skip
    groups = np.array([f"p{i % 23}" for i in range(24)])
    groups[23] = "p0"
    refused(
        r"1 group\(s\) stand in train and in test, such as p0. Mend the split column", own, 0.2, 0.25, 0, groups=groups
    )


def test_an_own_validation_split_is_not_mixed_into_folds():
    own = examples([0, 1] * 12, split=np.array(["train"] * 20 + ["val"] * 4))
    with pytest.raises(
        ConfigError, match=r"'dataset.fold=2/4' divides all examples, but this data set has splits of its"
    ):
        divide(own, 0.2, 0.25, 0, "2/4")


def test_own_splits_are_not_cut_again_by_groups():
    """One group in train is no reason to refuse what is divided already."""
    split = np.array(["train"] * 4 + ["val"] * 4 + ["test"] * 4)
    own = examples([0, 1] * 6, split=split)
    found = divide(own, 0.2, 0.25, 0, groups=np.repeat(["a", "b", "c"], 4))
    assert {name: len(where) for name, where in found.items()} == {"train": 4, "val": 4, "test": 4}


def test_a_class_in_two_groups_can_be_tested_in_every_fold():
    own = examples([0, 1, 2] * 10)
    groups = np.array([f"g{i}" for i in range(30)])
    groups[[2, 5, 8, 11, 14]], groups[[17, 20, 23, 26, 29]] = "one", "two"  # class 2
    tested = np.concatenate([divide(own, 0.2, 0.25, 0, f"{k}/5", groups)["test"] for k in range(1, 6)])
    assert sorted(tested) == list(range(30))


def test_groups_of_all_sizes_are_tested():
    random, means = np.random.default_rng(0), {"train": [], "test": []}
    for seed in range(20):
        groups = np.repeat(np.arange(60), random.integers(1, 40, 60))
        found = divide(examples([0] * len(groups)), 0.2, 0.25, seed, groups=groups)
        for name, sizes in means.items():
            sizes.append(np.mean(np.unique(groups[found[name]], return_counts=True)[1]))
    assert abs(np.mean(means["test"]) / np.mean(means["train"]) - 1) < 0.15

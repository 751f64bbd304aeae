"""Further test sets, folds as sweeps, and folds as repeats in the table."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import tlmtl
from tlmtl.commands import all_folds
from tlmtl.data.digits import scans
from tlmtl.errors import ConfigError

SMALL = ["strategy=from_scratch", "train.epochs=3", "progress=false", "model.width=4"]


def table(top, first, count, names="abcdefghij", mode="L"):
    """A table of scanned digits, each named by a letter."""
    images, digit = scans()
    (top / "images").mkdir(parents=True)
    lines = ["image,letter,ink"]
    for i in range(first, first + count):
        Image.fromarray(images[i]).convert(mode).save(top / "images" / f"{i}.png")
        lines.append(f"images/{i}.png,{names[digit[i]]},{images[i].mean():.2f}")
    (top / "labels.csv").write_text("\n".join(lines) + "\n")
    return top / "labels.csv"


def test_rows_and_predictions_of_a_further_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table(tmp_path / "mine", 0, 120), table(tmp_path / "theirs", 200, 50, mode="RGB")
    overrides = ["dataset=table", "dataset.path=mine/labels.csv", *SMALL]
    alone = tlmtl.run(tlmtl.compose([*overrides, "output.root=alone"]))
    result = tlmtl.run(tlmtl.compose([*overrides, "evaluate.also=[theirs/labels.csv]"]))
    rows = result.rows
    assert list(rows.dataset) == ["table", "table", "table->labels", "table->labels"]
    assert list(rows.task) == ["letter", "ink"] * 2 and rows["data_hash"].nunique() == 2
    assert rows["val/loss"].isna().tolist() == [False, False, True, True]
    for name in ("test/accuracy", "test/mae", "test/loss", "val/loss"):  # nothing is changed by it
        assert rows[name][:2].tolist() == pytest.approx(alone.rows[name].tolist(), nan_ok=True)
    stored = pd.read_parquet(result.folder / "predictions.parquet")
    further = stored[(stored.split == "test:labels") & (stored.task == "letter")]
    assert list(further.id) == [f"images/{i}.png" for i in range(200, 250)]
    right = [row.output.argmax() == row.target for row in further.itertuples()]
    assert rows["test/accuracy"][2] == pytest.approx(np.mean(right))
    assert tlmtl.compose(overrides).evaluate.also == {}


def test_classes_are_matched_by_name_and_splits_of_a_preset_are_kept(tmp_path):
    digits = tlmtl.run(tlmtl.compose([*SMALL, "evaluate.also=[mnist5k]", f"output.root={tmp_path}"])).rows
    assert list(digits.dataset) == ["digits", "digits->mnist5k"] and digits["test/accuracy"].notna().all()
    table(tmp_path / "mine", 0, 120), table(tmp_path / "other", 200, 30, names="zyxwvutsrq")
    overrides = ["dataset=table", f"dataset.path={tmp_path}/mine/labels.csv", *SMALL, f"output.root={tmp_path}"]

    def refused(also, told):
        with pytest.raises(ConfigError, match=told):
            tlmtl.run(tlmtl.compose([*overrides, f"evaluate.also=[{also}]"]))

    refused(
        f"{tmp_path}/other/labels.csv", "classes of the task 'letter' that the model does not know: .*It knows: a, b"
    )
    refused(f"{tmp_path}/mine/labels.csv", r"9\d of the 120 images of 'evaluate.also.labels' are exact copies")
    refused("mnist5", "Found 'mnist5', which is none. Did you mean 'mnist5k'")
    refused("mnist5k", "has labels for none of the tasks letter, ink. It has: digit")


def test_a_further_set_may_not_be_what_the_source_learnt(tmp_path, monkeypatch):
    monkeypatch.setattr("tlmtl.fill._like", None)
    overrides = ["dataset=digits", "source.dataset.split_seed=3", "evaluate.also=[mnist5k]", "train.epochs=1"]
    with pytest.raises(ConfigError, match="validation and test images were in the source's training"):
        tlmtl.run(tlmtl.compose([*overrides, "source.train.epochs=20st", f"output.root={tmp_path}", "progress=false"]))


def test_further_pictures_of_another_shape_are_read_as_predict_reads_them(main, tmp_path):
    random = np.random.default_rng(0)
    for folder, shape, count in (("mine", (20, 20), 40), ("wide", (20, 60), 20)):
        for i in range(count):
            pixels = random.integers(0, 255, shape).astype(np.uint8)
            pixels[:, : shape[1] // 3] = 255 * (i % 2)  # the left third says which class, and is cut off a wide picture
            path = tmp_path / folder / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    overrides = ["dataset=folder", "dataset.root=mine", "evaluate.also=[wide]", *SMALL]
    assert main("train", *overrides, "train.epochs=30").code == 0
    rows = pd.read_csv(tmp_path / "outputs/runs/latest/results.csv")
    said = pd.read_csv(io.StringIO(main("predict", "outputs/runs/latest", "wide").out))
    right = (said["label"] == said["image"].str.split("/").str[1]).mean()
    assert rows["dataset"][1] == "folder->wide" and rows["test/accuracy"][1] == pytest.approx(right)


@pytest.mark.slow
def test_a_further_set_that_changed_makes_a_sweep_stale(main, tmp_path):
    table(tmp_path / "mine", 0, 120), table(tmp_path / "theirs", 200, 40)
    words = [
        "train",
        "-m",
        "dataset=table",
        "dataset.path=mine/labels.csv",
        "evaluate.also=[theirs/labels.csv]",
        *SMALL,
    ]
    words += ["seed=0,1", "train.epochs=1"]
    assert main(*words).code == 0
    assert "0 to do, 2 there already" in main(*words).all
    lines = (tmp_path / "theirs/labels.csv").read_text().splitlines()
    (tmp_path / "theirs/labels.csv").write_text("\n".join(lines[:-10]) + "\n")
    said = main(*words).all
    assert "a further test set changed" in said and "2 to do" in said


@pytest.mark.slow
def test_a_rate_is_chosen_by_the_runs_own_validation(main, tmp_path):
    table(tmp_path / "mine", 0, 120), table(tmp_path / "theirs", 200, 40)
    words = [
        "dataset=table",
        "dataset.path=mine/labels.csv",
        "tasks=letter",
        "evaluate.also=[theirs/labels.csv]",
        *SMALL,
    ]
    assert main("train", "-m", *words, "train.epochs=8", "optimizer.lr=1e-5,1e-2").code == 0
    said = main("compare", "outputs/sweeps/latest", "--over", "lr", "--format", "csv")
    shown = pd.read_csv(io.StringIO(said.out))
    assert sorted(shown["dataset"]) == ["table", "table->labels"] and set(shown["lr"]) == {0.01}


def test_all_folds_are_a_sweep():
    assert all_folds("dataset.fold=all/3", True) == "dataset.fold=1/3,2/3,3/3"
    assert all_folds("dataset.fold=1/3", False) == "dataset.fold=1/3"
    with pytest.raises(ConfigError, match=r"'dataset.fold=all/4' is a sweep of 4 runs: add -m"):
        all_folds("dataset.fold=all/4", False)


@pytest.mark.slow
def test_folds_are_repeats_when_asked(main, tmp_path):
    table(tmp_path / "mine", 0, 120)
    said = main(
        "train", "-m", "dataset=table", "dataset.path=mine/labels.csv", "tasks=letter", *SMALL, "dataset.fold=all/3"
    )
    assert said.code == 0, said.all
    results = pd.read_csv(tmp_path / "outputs/sweeps/latest/results.csv")
    assert len(results) == 3 and results.data_hash.nunique() == 3
    apart = main("compare", "outputs/sweeps/latest", "--format", "csv").out.splitlines()
    assert len(apart) == 4
    said = main("compare", "outputs/sweeps/latest", "--repeats", "dataset.fold", "--format", "json")
    assert "Counted as repeats beside the seed: dataset.fold (3 values)." in said.all
    (row,) = pd.read_json(io.StringIO(said.out)).to_dict("records")
    assert row["n"] == 3 and row["test_mean"] == pytest.approx(results["test/accuracy"].mean())
    assert row["test_sd"] == pytest.approx(results["test/accuracy"].std())
    wrong = main("compare", "outputs/sweeps/latest", "--repeats", "dataset.fodl")
    assert wrong.code == 2 and "Did you mean 'dataset.fold'?" in wrong.err

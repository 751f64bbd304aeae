"""The task that needs no labels: in every data set, alone and beside others, on data without labels, as a source; and what
missing labels do to the tasks that need them."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import refused
from own import loaded, picture, table_of
from safetensors import safe_open

import tlmtl
from tlmtl import identity, pretrain
from tlmtl.data.labels import select_tasks
from tlmtl.errors import ConfigError

torch.set_num_threads(1)
SMALL = ["model.width=4", "strategy=from_scratch", "progress=false", "train.batch_size=16"]
ONCE = ["train.evaluate_every=100%", "train.checkpoint_every=100%"]


def run(folder, *overrides):
    return tlmtl.run(tlmtl.compose([*SMALL, *ONCE, f"output.root={folder}", *overrides]))


def flat(top, count=12):
    for i in range(count):
        picture(top / f"{i}.png", i, (24, 16), "L")
    return top


def table_with(top, count, **columns):
    """A table of `count` pictures; each column says its cell for a row."""
    cells = [[f"{i}.png", *(str(cell(i)) for cell in columns.values())] for i in range(count)]
    for i in range(count):
        picture(top / f"{i}.png", i, (16, 16), "L")
    return str(table_of(top, cells, ["image", *columns]))


# which tasks are chosen

TASKS = {"a": {"kind": "regression"}, "b": {}, "reconstruction": {"kind": "reconstruction"}}


def test_a_reconstruction_is_chosen_by_name_alone():
    assert select_tasks("default", TASKS, []) == ["a"] and select_tasks("default", TASKS, ["b"]) == ["b"]
    assert select_tasks("all", TASKS, []) == ["a", "b"]
    assert select_tasks("reconstruction", TASKS, []) == ["reconstruction"]
    assert select_tasks(["reconstruction", "b"], TASKS, []) == ["b", "reconstruction"]
    with pytest.raises(ConfigError, match=r"Unknown task 'reconstruct'. Did you mean 'reconstruction'\?"):
        select_tasks(["reconstruct"], TASKS, [])
    with pytest.raises(ConfigError, match=r"no column of labels. tasks=all needs labels.*tasks=\[reconstruction\]"):
        select_tasks("all", {"reconstruction": {"kind": "reconstruction"}}, [])


def test_every_data_set_has_one_with_settings_of_its_own():
    from tlmtl.data.dataset import load

    def made(*overrides):
        cfg = tlmtl.compose(list(overrides))
        return load(cfg.dataset, cfg.tasks, []).tasks

    assert list(made()) == ["digit"] and list(made("tasks=all")) == ["digit", "parity", "ink"]
    both = made("tasks=[reconstruction,digit]", "+dataset.tasks.reconstruction.weight=0.1")
    assert list(both) == ["digit", "reconstruction"] and both["reconstruction"].weight == 0.1
    assert both["digit"].primary and not both["reconstruction"].primary
    assert made("tasks=[reconstruction]")["reconstruction"].primary
    stated = "+dataset.tasks.reconstruction={kind:reconstruction,primary:true,metrics:[r2]}"
    task = made("tasks=[reconstruction,digit]", stated)["reconstruction"]
    assert task.primary and task.metrics == ["r2"]
    named = made("tasks=[again,digit]", "+dataset.tasks.again={kind:reconstruction}")
    assert list(named) == ["digit", "again"] and named["again"].kind == "reconstruction"


def test_a_column_of_that_name_wins(tmp_path):
    path = table_with(tmp_path, 12, reconstruction=lambda i: ["good", "bad"][i % 2], other=lambda i: i / 8)
    data = loaded("table", tasks="all", path=path)
    assert {name: task.kind for name, task in data.tasks.items()} == {
        "reconstruction": "classification", "other": "regression"
    }  # fmt: skip


def test_a_reconstruction_of_a_part_is_auxiliary_beside_tasks_of_others():
    from tlmtl.data.parts import streams_of

    def primary(tasks):
        cfg = tlmtl.compose(["dataset=joint", "dataset.parts=[digits,mnist5k]", f"tasks={tasks}"])
        streams = streams_of(cfg.dataset, cfg.tasks, [], None)
        return {name: task.primary for data in streams.values() for name, task in data.tasks.items()}

    assert primary("[digits_digit,mnist5k_reconstruction]") == {"digits_digit": True, "mnist5k_reconstruction": False}
    assert primary("[mnist5k_reconstruction]") == {"mnist5k_reconstruction": True}
    assert primary("all") == {f"digits_{name}": True for name in ("digit", "parity", "ink")} | {"mnist5k_digit": True}


def test_its_choice_is_part_of_a_runs_identity():
    one, other = (tlmtl.compose([f"tasks={tasks}"]) for tasks in ("[digit]", "[digit,reconstruction]"))
    assert identity.config_hash(one) != identity.config_hash(other)
    assert identity.config_hash(one) == identity.config_hash(tlmtl.compose([]))


# beside other tasks


def test_a_run_of_a_classification_and_a_reconstruction(tmp_path):
    tasks = ["tasks=[digit,reconstruction]", "train.epochs=12", "model.width=8"]
    result = run(tmp_path, *tasks)
    rows = result.rows.set_index("task")
    assert rows.loc["digit", "primary"] and not rows.loc["reconstruction", "primary"]
    picture_row = rows.loc["reconstruction"]
    assert picture_row["val/loss"] == pytest.approx(picture_row["val/mse"], rel=1e-5)
    assert 0 < picture_row["test/r2"] < 1 and rows["test/accuracy"].isna().tolist() == [False, True]
    said = pd.read_parquet(result.folder / "predictions.parquet").query("task == 'reconstruction' and split == 'test'")
    errors, moments = np.stack(said["output"])[:, 0], np.stack(said["targets"])
    assert said["target"].isna().all() and moments.shape == (len(said), 2)
    mse, variance = (errors**2).mean(), moments[:, 1].mean() - moments[:, 0].mean() ** 2
    assert picture_row["test/mse"] == pytest.approx(mse, rel=1e-5)
    assert picture_row["test/r2"] == pytest.approx(1 - mse / variance, rel=1e-4)
    with safe_open(result.folder / "model.safetensors", "pt") as file:
        names = [name for name in file.keys() if name.startswith("heads.reconstruction.")]  # noqa: SIM118 - no mapping
        assert json.loads(file.metadata()["tlmtl"])["tasks"]["reconstruction"]["kind"] == "reconstruction"
    assert {"heads.reconstruction.linear.weight", "heads.reconstruction.last.weight"} <= set(names)
    history = pd.read_csv(result.folder / "history.csv")
    score = history.query("split == 'val' and name == 'score'")["value"].iloc[-1]
    loss = history.query("split == 'val' and task == 'digit' and name == 'loss'")["value"].iloc[-1]
    assert score == pytest.approx(1 - loss / np.log(10), abs=1e-3)  # the auxiliary task has no part in choosing


def test_a_run_of_auxiliary_tasks_alone_is_chosen_by_them(tmp_path):
    result = run(tmp_path, "tasks=[ink]", "dataset.tasks.ink.primary=false", "train.epochs=1")
    history = pd.read_csv(result.folder / "history.csv").query("split == 'val'")
    assert np.isfinite(history.query("name == 'score'")["value"]).all() and not result.rows["primary"].any()


def test_losses_and_smoothing_reach_the_step(tmp_path):
    def losses(*overrides):
        result = run(tmp_path, "tasks=[digit,ink]", "train.epochs=1st", *overrides)
        history = pd.read_csv(result.folder / "history.csv").query("name == 'loss'")
        return {(row.split, row.task): row.value for row in history.itertuples()}

    plain = losses()
    other = losses("dataset.tasks.digit.label_smoothing=0.5", "dataset.tasks.ink.loss=l1")
    assert other["train", "digit"] != plain["train", "digit"]
    assert other["train", "digit"] == pytest.approx(np.log(10), abs=0.2)
    assert other["train", "ink"] != plain["train", "ink"]


def test_hidden_layers_of_heads(tmp_path):
    result = run(tmp_path, "head.hidden=[6,5]", "head.dropout=0.1", "train.epochs=1st")
    shapes = {name: tuple(p.shape) for name, p in result.model.named_parameters() if "heads.digit" in name}
    assert shapes["heads.digit.hidden.1.weight"] == (6, 16) and shapes["heads.digit.last.linear.weight"] == (10, 5)


# data without labels


def test_images_in_a_folder_itself_can_be_reconstructed(tmp_path, main):
    top = flat(tmp_path / "flat")
    (top / "notes.txt").write_text("beside the images")
    data = loaded("folder", ["reconstruction"], root=str(top))
    assert list(data.tasks) == ["reconstruction"] and data.labels("train") == {} and len(data.examples) == 12
    assert "Passed over: 1 file(s) that are no images, such as notes.txt." in data.examples.notes
    with pytest.raises(ConfigError, match=r"one folder for each class is needed\)\. tasks=label needs labels"):
        loaded("folder", root=str(top))
    assert main("predict", str(run(tmp_path, "dataset=folder", f"dataset.root={top}", "tasks=[reconstruction]",
                                   "train.epochs=2st").folder), str(top / "1.png")).out.startswith(
        "image,reconstruction_rmse,error"
    )  # fmt: skip
    for override, words in (
        ("dataset.labels_per_class=2", "'dataset.labels_per_class' needs a task with classes. Use 'dataset.label_fraction'"),
        ("train.sampler=balanced", "'train.sampler=balanced' needs a classification among the tasks"),
        ("train.class_weights=balanced", "'train.class_weights=balanced' needs a classification among the tasks"),
        ("tasks=all", "one folder for each class is needed"),
        ("dataset.tasks.reconstruction.weight=.1", "added with a plus: +dataset.tasks.reconstruction"),
    ):  # fmt: skip
        command = ["train", "dataset=folder", f"dataset.root={top}", "tasks=[reconstruction]", *SMALL]
        refused(main(*command, *override.split()), words)
    said = main("check", "dataset=folder", f"dataset.root={top}", "tasks=[reconstruction]")
    assert said.code == 0 and "refuse." in said.out


def test_flat_folders_of_splits_and_folders_of_one_class(tmp_path):
    for split, count in (("train", 5), ("valid", 3), ("test", 2)):
        flat(tmp_path / "split" / split, count)
    data = loaded("folder", ["reconstruction"], root=str(tmp_path / "split"), on_duplicate="allow")
    assert {name: len(where) for name, where in data.splits.items()} == {"train": 5, "val": 3, "test": 2}
    flat(tmp_path / "one" / "cat")
    assert len(loaded("folder", ["reconstruction"], root=str(tmp_path / "one")).examples) == 12
    with pytest.raises(ConfigError, match=r"two classes or more in .*one, found 1: cat. tasks=label needs labels"):
        loaded("folder", root=str(tmp_path / "one"))


def test_a_table_of_images_alone(tmp_path):
    path = table_with(tmp_path, 12)
    data = loaded("table", ["reconstruction"], path=path)
    assert list(data.tasks) == ["reconstruction"] and len(data.splits["train"]) + len(data.splits["val"]) == 9
    for tasks in ("default", "all"):
        with pytest.raises(ConfigError, match=rf"No column of .* looks like labels.*tasks={tasks} needs labels"):
            loaded("table", tasks, path=path)


def test_a_source_without_labels_end_to_end(tmp_path, main):
    top = flat(tmp_path / "flat")
    source = ["dataset@source.dataset=folder", f"source.dataset.root={top}", "source.train.epochs=2st"]
    command = [*SMALL[:1], *SMALL[2:], *ONCE, "strategy=linear_probe", *source, "train.epochs=2st"]
    cfg = tlmtl.compose([*command, "source.tasks=[reconstruction]", f"output.root={tmp_path}/out"])
    assert list(pretrain.source_config(cfg).tasks) == ["reconstruction"]
    result = tlmtl.run(cfg)
    assert result.rows["status"].tolist() == ["done"] and result.rows["source_seconds"].iloc[0] > 0
    record = json.loads((result.folder / "run.json").read_text())
    assert record["loaded"]["share"] == 1.0 and record["loaded"]["skipped"] == {}
    refused(main("train", *command), "In the pre-training of the source", "one folder for each class is needed")
    refused(main("train", *command, "source.tasks=[lable]"), "Unknown task 'lable'. Did you mean 'label'?")


# labels that are missing


def test_a_table_with_a_tenth_of_its_labels_missing_trains(tmp_path):
    random = np.random.default_rng(0)
    gone = random.random((60, 3)) < 0.1
    path = table_with(
        tmp_path / "data", 60,
        kind=lambda i: "" if gone[i, 0] else "ab"[i % 2],
        size=lambda i: "" if gone[i, 1] else i / 7,
        marks=lambda i: "" if gone[i, 2] else ["x;y", "x", "y;z"][i % 3],
    )  # fmt: skip
    result = run(tmp_path, "dataset=table", f"dataset.path={path}", "tasks=all", "train.epochs=2")
    assert result.rows["task"].tolist() == ["kind", "size", "marks"] and result.rows["val/loss"].notna().all()
    data = loaded("table", "all", path=path)
    there = {name: int(mask.sum()) for name, (_, mask) in data.labels("train").items()}
    assert sum(there.values()) < 3 * len(data.splits["train"])
    assert result.rows["labels_seen"].tolist() == [2 * there[name] for name in result.rows["task"]]


def test_a_split_without_a_label_is_told(tmp_path):
    split = lambda i: ["train", "val", "test"][i // 6]  # noqa: E731

    def data(tasks, **missing):
        columns = {
            "k": lambda i: "" if split(i) in missing.get("k", ()) else "ab"[i % 2],
            "v": lambda i: "" if split(i) in missing.get("v", ()) else i / 7,
        }
        top = tmp_path / "_".join(sorted(f"{name}{len(gone)}{gone[0]}" for name, gone in missing.items()))
        return loaded("table", tasks, path=table_with(top, 18, split=split, **columns))

    notes = data("all", v=["val"], k=["test"]).examples.notes
    assert "No validation example has a label of 'v': it has no part in choosing." in notes
    assert "No test example has a label of 'k': its test figures stay empty." in notes
    with pytest.raises(ConfigError, match=r"No validation example has a label of k or v, so the best epoch cannot be"):
        data("all", v=["val"], k=["val"])
    with pytest.raises(ConfigError, match=r"No validation example has a label of v"):
        data(["v"], v=["val"])
    with pytest.raises(ConfigError, match=r"'dataset.tasks.v' has no label in the training split"):
        data("all", v=["train"])


def test_words_where_numbers_are_due(tmp_path, main):
    path = table_with(tmp_path / "data", 12, k=lambda i: ["cat", "dog"][i % 2], empty=lambda i: "")
    table = ["train", "dataset=table", f"dataset.path={path}", *SMALL]
    refused(main(*table, "+dataset.tasks.k.kind=regression"), "'k' is a regression, but 12 of its cells are no numbers")
    refused(
        main(*table, "dataset.labels=[k,empty]", "+dataset.tasks.empty.kind=regression", "tasks=all"),
        "'dataset.tasks.empty' has no label in the training split",
    )
    refused(main(*table, "tasks=k", "+dataset.tasks.k.loss=l1"), "'dataset.tasks.k.loss' of a classification should be")


def test_nothing_warns_of_its_own(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(tmp_path, "tasks=[digit,reconstruction]", "train.epochs=1st")

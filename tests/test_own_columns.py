"""A user's table: how it is read, what its columns are taken for, and what is said of one that is not as it should be."""

import numpy as np
import pandas as pd
import pytest
from own import loaded, picture, table_of

from tlmtl.data import infer, tabular
from tlmtl.errors import ConfigError


def column(*cells):
    """A column as it comes from a file: the first row of a CSV file is line 2."""
    return pd.Series(list(cells), index=range(2, len(cells) + 2), dtype=object)


def kind(*cells):
    return infer.kind_of(column(*cells))


def encoded(kind, *cells, separator=None):
    return infer.encode(column(*cells), kind, "c", separator)


def pictures(top, count=24):
    return [picture(top / f"{i}.png", i).name for i in range(count)]


def table(top, header, cell, count=24):
    """A table of so many images; `cell(i)` gives what stands beside the image's name."""
    return table_of(top, [[name, *cell(i)] for i, name in enumerate(pictures(top, count))], ["image", *header])


# Kinds


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["cat", "dog", "cat", ""], "classification"),
        (["1", "2", "1", "3"], "classification"),
        (["-1", "1", "1", "-1"], "classification"),
        (["0.0", "1.0", "2"], "classification"),
        (["1", "2.5", "3"], "regression"),
        ([str(i) for i in range(20)], "classification"),
        ([str(i % 21) for i in range(42)], "regression"),
        ([str(i) for i in range(21)], None),  # a number for each row
        (["1e3", "-2.5", "nan-like"], "mixed"),
        (["a;b", "b", "a;c", "c", "b;c", "a"], "multilabel"),
        (["a|b", "b", "a|c", "c", "b|c", "a"], "multilabel"),
        (["a, b", "b", "a, c", "c", "b, c", "a"], "multilabel"),
        (["1;2", "2", "1;3", "3", "2;3", "1;2;3"], "multilabel"),
        (["1", "2", "1;2", "1", "2", "1"], "multilabel"),
        (["1,5", "2", "0,25", "3"], "mixed"),
        (["", ""], None),
        ([f"patient {i}" for i in range(40)], None),
        ([f"a remark, number {i}, of no use" for i in range(40)], None),
        ([f"breed {i % 12}" for i in range(40)], "classification"),
        (["inf", "1", "2"], "regression"),
        (["12345678901234567890", "1", "2"], "classification"),
    ],
)
def test_kinds_are_found_from_the_values(cells, expected):
    assert kind(*cells) == expected


def test_classes_of_words_and_of_numbers():
    found = encoded("classification", "dog", "", "cat", "dog")
    assert found.classes == ["cat", "dog"] and found.values.tolist() == [1, -1, 0, 1] and found.values.dtype == np.int64
    assert found.line("pet") == "pet: classification, 2 classes (cat, dog), 1 missing"
    found = encoded("classification", "10", "9", "10.0", "100")
    assert found.classes == ["9", "10", "100"] and found.values.tolist() == [1, 0, 1, 2]  # in the order of numbers
    found = encoded("classification", "12345678901234567890", "12345678901234567891")
    assert found.classes == ["12345678901234567890", "12345678901234567891"]  # no float could tell them apart
    assert encoded("classification", "inf", "1").classes == ["1", "inf"]


def test_minus_one_is_a_class_of_two_and_missing_among_more():
    found = encoded("classification", "-1", "1", "1")
    assert found.classes == ["-1", "1"] and found.values.tolist() == [0, 1, 1] and not found.notes
    found = encoded("classification", "-1", "0", "1", "", "2")
    assert found.classes == ["0", "1", "2"] and found.values.tolist() == [-1, 0, 1, -1, 2]
    assert found.notes == ["c: -1 is taken for a missing label (1 rows)."]
    found = encoded("classification", "-2", "-1", "0", "1")
    assert found.classes == ["-2", "-1", "0", "1"]  # with -2 beside it, -1 is a number like others


def test_values_of_a_regression():
    found = encoded("regression", "1.5", "", "-2", "1e2")
    assert found.classes is None and np.array_equal(found.values, [1.5, np.nan, -2, 100], equal_nan=True)
    assert found.line("c") == "c: regression, values from -2 to 100, 1 missing"
    with pytest.raises(
        ConfigError, match=r"'c' is a regression, but 2 of its cells are no numbers: 'tall' in row 3, '\?' in"
    ):
        encoded("regression", "1", "tall", "3", "?")
    with pytest.raises(ConfigError, match=r"1 of its cells are no numbers: '1e999' in row 3"):
        encoded("regression", "1", "1e999")


def test_decimal_commas_are_not_taken_for_labels():
    cells = column("1,5", "2", "", "0,25")
    assert infer.kind_of(cells) == "mixed"
    assert "'c' looks like numbers with a decimal comma: '1,5' in row 2, '0,25' in row 5. Write them with" in str(
        infer.mixed(cells, "c")
    )


def test_labels_of_a_multilabel_column():
    found = encoded("multilabel", "b; a", "a", "", "c;a")
    assert found.classes == ["a", "b", "c"]
    assert np.array_equal(found.values, [[1, 1, 0], [1, 0, 0], [np.nan] * 3, [1, 0, 1]], equal_nan=True)
    assert found.line("c") == "c: multilabel, 3 labels (a, b, c), 1 missing"
    assert encoded("multilabel", "a/b", "a", separator="/").classes == ["a", "b"]
    assert encoded("multilabel", "a/b", "a").classes == ["a", "a/b"]  # a stated kind without a known separator


# From a table to tasks


def test_tasks_are_the_columns_of_labels(tmp_path):
    path = table(
        tmp_path, ["who", "class", "sex", "age", "traits", "remark", "type"],
        lambda i: [f"p{i}", "abc"[i % 3], [-1, 1][i % 2], i / 4, ["x;y", "x", "y;z"][i % 3], f"seen on day {i}", "uv"[i % 2]],
    )  # fmt: skip
    data = loaded("table", "all", path=str(path), id="who")
    assert {name: task.kind for name, task in data.tasks.items()} == {
        "class": "classification", "sex": "classification", "age": "regression", "traits": "multilabel",
        "type_": "classification",
    }  # fmt: skip
    assert data.tasks["sex"].classes == ["-1", "1"] and data.tasks["traits"].classes == ["x", "y", "z"]
    assert data.examples.ids[:2] == ["p0", "p1"] and data.examples.notes[0] == "Images are named in the column 'image'."
    assert sum(map(len, data.splits.values())) == 24


def test_kinds_and_names_can_be_stated(tmp_path):
    path = str(table(tmp_path, ["grade", "note"], lambda i: [i % 5, ["good", "3"][i % 2]]))
    assert loaded("table", path=path, labels=["grade"]).tasks["grade"].kind == "classification"
    data = stated(path, {"grade": {"kind": "regression"}, "note": {"kind": "classification"}})
    assert {name: task.kind for name, task in data.tasks.items()} == {"grade": "regression", "note": "classification"}
    data = stated(path, {"level": {"target": "grade"}, "note": {"kind": "classification"}})
    assert list(data.tasks) == ["note", "level"] and data.tasks["level"].classes == ["0", "1", "2", "3", "4"]
    with pytest.raises(ConfigError, match=r"'dataset.tasks.grad.target' should be a column .* Did you mean 'grade'\?"):
        stated(path, {"grad": {"kind": "regression"}, "note": {"kind": "classification"}})


def stated(path, tasks):
    from omegaconf import OmegaConf

    from tlmtl.data.dataset import load, with_tasks

    node = OmegaConf.create({"_target_": "tlmtl.data.table.table", "path": path, "tasks": tasks})
    return load(with_tasks(node, "dataset", []), "all", [])


def test_a_column_of_numbers_and_words_is_not_guessed_at(tmp_path):
    path = str(table(tmp_path, ["size"], lambda i: [i if i != 7 else "large"]))
    with pytest.raises(
        ConfigError,
        match=r"The column 'size' holds 23 numbers and 1 other value\(s\): 'large' in row 9\. .*"
        r"\+dataset\.tasks\.size\.kind=classification",
    ):
        loaded("table", path=path)
    assert len(stated(path, {"size": {"kind": "multilabel"}}).tasks["size"].classes) == 24


def test_columns_that_are_not_there(tmp_path):
    path = str(table(tmp_path, ["label"], lambda i: ["ab"[i % 2]]))
    for settings, words in (
        ({"image": "imag"}, r"'dataset.image' should be a column of the table. Found 'imag'. Did you mean 'image'\?"),
        ({"labels": ["lable"]}, r"'dataset.labels' should be .* Found 'lable'. Did you mean 'label'\?"),
        ({"id": "who"}, r"'dataset.id' should be .* Found 'who'. It has: image, label\."),
        ({"group_column": "who"}, r"'dataset.group_column' should be .* Found 'who'"),
        ({"split": "fold"}, r"'dataset.split' should be .* Found 'fold'"),
    ):
        with pytest.raises(ConfigError, match=words):
            loaded("table", path=path, **settings)
    with pytest.raises(ConfigError, match=r"No column of .* looks like labels. Name them: dataset.labels=\[COLUMN\]"):
        loaded("table", path=str(table(tmp_path / "b", ["who"], lambda i: [f"person {i}"])))
    with pytest.raises(
        ConfigError, match=r"No column of the table holds names of image files. Name it: dataset.image=COLUMN"
    ):
        tabular.image_column(pd.DataFrame({"a": column("x"), "b": column("y")}), None)


def test_the_column_of_images_is_found():
    names = column("1.png", "2.PNG")
    assert tabular.image_column(pd.DataFrame({"label": column("a", "b"), "where": names}), None) == "where"
    assert tabular.image_column(pd.DataFrame({"mask": names, "File": names}), None) == "File"
    assert (
        tabular.image_column(pd.DataFrame({"label": column("a", "b"), "image_id": column("1", "2")}), None)
        == "image_id"
    )


def test_ids_name_each_row(tmp_path):
    path = str(table(tmp_path, ["who", "label"], lambda i: [f"p{i % 20}", "ab"[i % 2]]))
    with pytest.raises(ConfigError, match=r"'dataset.id=who' should name each row, but 'p0' comes again in row 22"):
        loaded("table", path=path, id="who")


def test_a_column_of_splits(tmp_path):
    names = ["Training", "val", "dev", "TEST"]
    path = str(table(tmp_path, ["Split", "label"], lambda i: [names[i % 4], "ab"[i // 4 % 2]]))
    data = loaded("table", path=path)
    assert {name: where.tolist() for name, where in data.splits.items()} == {
        "train": list(range(0, 24, 4)), "val": [i for i in range(24) if i % 4 in (1, 2)], "test": list(range(3, 24, 4)),
    }  # fmt: skip
    assert list(data.tasks) == ["label"]
    aside = loaded("table", "all", path=path, split=None)
    assert list(aside.tasks) == ["Split", "label"] and len(aside.splits["train"]) > 10
    path = str(table(tmp_path / "b", ["part", "label"], lambda i: [["train", "test"][i % 2], "ab"[i // 2 % 2]]))
    assert list(loaded("table", "all", path=path).tasks) == [
        "part",
        "label",
    ]  # only one called `split` is taken unasked
    assert loaded("table", path=path, split="part").splits["test"].tolist() == list(range(1, 24, 2))


def test_a_split_that_is_none(tmp_path):
    path = str(table(tmp_path, ["part", "label"], lambda i: [["train", "test", "trian"][i % 3], "ab"[i % 2]]))
    with pytest.raises(
        ConfigError, match=r"'part' should say train, val or test in each row. Found 'trian' in row 4 .*=null"
    ):
        loaded("table", path=path, split="part")


def test_images_that_are_missing_are_named_by_row(tmp_path):
    path = table(tmp_path, ["label"], lambda i: ["ab"[i % 2]])
    (tmp_path / "3.png").unlink()
    with path.open("a") as file:
        file.write("gone.png,a\n,b\n")
    with pytest.raises(ConfigError) as error:
        loaded("table", path=str(path))
    assert "3 of the 26 images named in the column 'image' are not there:\n  row 5: 3.png\n  row 26: gone.png\n" in str(
        error.value
    )
    assert "  row 27: no file is named\n" in str(error.value) and f"below {tmp_path} (dataset.root)" in str(error.value)
    data = loaded("table", path=str(path), on_bad_image="skip")
    assert len(data.examples) == 23 and data.examples.bad[0] == ("row 5: 3.png", "not there")
    elsewhere = loaded("table", path=str(table_of(tmp_path / "b", [[f"{i}.png", "ab"[i % 2]] for i in range(24) if i != 3],
                                                  ["image", "label"])), root=str(tmp_path))  # fmt: skip
    assert len(elsewhere.examples) == 23

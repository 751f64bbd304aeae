"""CSV and Parquet files as users have them: delimiters, encodings, lists, and rows that are not as they should be."""

import pandas as pd
import pytest
from own import loaded, picture

from tlmtl.data import tabular
from tlmtl.errors import ConfigError


def read(tmp_path, content, name="t.csv", **settings):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return tabular.read(str(path), **settings)


@pytest.mark.parametrize("between", [",", ";", "\t", "|"])
def test_delimiters_are_found(tmp_path, between):
    rows = read(tmp_path, f"image{between}a label\nx.png{between}cat\n".replace("\n", "\r\n"))
    assert rows.to_dict("list") == {"image": ["x.png"], "a label": ["cat"]} and rows.index.tolist() == [2]


def test_a_delimiter_can_be_said(tmp_path):
    assert read(tmp_path, "a:b\n1,5:2\n", delimiter=":").to_dict("list") == {"a": ["1,5"], "b": ["2"]}
    with pytest.raises(ConfigError, match=r"'dataset.delimiter' should be one character, such as ';'. Found '::'"):
        read(tmp_path, "a::b\n1::2\n", delimiter="::")


def test_cells_are_text_and_some_are_missing(tmp_path):
    rows = read(tmp_path, 'a,b,c\n 007 ,"x, ""y""\nz",nan\nNA,none,null\n')
    assert rows.values.tolist() == [["007", 'x, "y"\nz', ""], ["NA", "none", ""]]
    assert rows.index.tolist() == [3, 4]  # a row that spans lines has the number of its last


def test_encodings(tmp_path):
    assert read(tmp_path, "\ufeffimage,label\nä.png,Bär\n".encode()).columns.tolist() == ["image", "label"]
    latin = "image,label\na.png,cat\nb.png,Bär\n".encode("cp1252")
    with pytest.raises(ConfigError, match=r"t.csv is not UTF-8: byte 0xe4 in line 3. .* dataset.encoding=cp1252"):
        read(tmp_path, latin)
    assert read(tmp_path, latin, encoding="cp1252")["label"].tolist() == ["cat", "Bär"]
    wide = "image,label\na.png,Bär\n".encode("utf-16")
    with pytest.raises(ConfigError, match=r"looks like UTF-16: dataset.encoding=utf-16"):
        read(tmp_path, wide)
    assert read(tmp_path, wide, encoding="utf-16")["label"].tolist() == ["Bär"]
    with pytest.raises(
        ConfigError, match=r"'dataset.encoding' should name an encoding, such as cp1252. Found 'utf-99'"
    ):
        read(tmp_path, latin, encoding="utf-99")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", r"t.csv is empty: expected a line of column names"),
        ("\n\n", r"t.csv is empty"),
        ("image,label\n", r"t.csv has column names \(image, label\) and no rows"),
        ("image,label\na.png,x\nb.png\n", 
         r"t.csv, line 3: expected 2 cells, one for each column, found 1. .*',' between \(dataset.delimiter\)"),
        ("image,label\na.png,x,y\n", r"line 2: expected 2 cells, one for each column, found 3"),
        ("image,label,label \na.png,x,y\n", r"expected each column once, found label more than once"),
        ('image,label\na.png,"x\n', r"t.csv, line 2: expected cells with ',' between: unexpected end of data"),
        (b"image,label\na\0.png,x\n", r"is no CSV file: it holds binary data"),
    ],
)  # fmt: skip
def test_files_that_are_no_tables(tmp_path, content, words):
    with pytest.raises(ConfigError, match=words):
        read(tmp_path, content)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"'dataset.path' should be a CSV or Parquet file. Found nothing at"):
        tabular.read(str(tmp_path / "t.csv"))
    with pytest.raises(ConfigError, match=r"Found a folder at"):
        tabular.read(str(tmp_path))
    with pytest.raises(ConfigError, match=r"t.parquet cannot be read as Parquet: .*"):
        read(tmp_path, "image,label\n", "t.parquet")


def test_empty_lines_are_passed_over(tmp_path):
    rows = read(tmp_path, "image,label\n\na.png,x\n\n")
    assert rows["label"].tolist() == ["x"] and rows.index.tolist() == [3]


def test_a_table_that_changes_is_read_again(tmp_path):
    assert read(tmp_path, "a,b\n1,2\n")["b"].tolist() == ["2"]
    assert read(tmp_path, "a,b\n1,3\n")["b"].tolist() == ["3"]


def test_parquet_with_a_column_of_lists(tmp_path):
    frame = pd.DataFrame({
        "image": [picture(tmp_path / f"{i}.png", i).name for i in range(20)],
        "tags": [[["red"], ["red", "big"], ["big"], None][i % 4] for i in range(20)],
        "age": [i / 8 if i else None for i in range(20)],
        "kind": [["a", "b"][i % 2] for i in range(20)],
    })  # fmt: skip
    frame.to_parquet(tmp_path / "t.parquet")
    rows = tabular.read(str(tmp_path / "t.parquet"))
    assert rows["tags"].tolist()[:4] == ["red", "red;big", "big", ""] and rows["age"].tolist()[:2] == ["", "0.125"]
    data = loaded("table", "all", path=str(tmp_path / "t.parquet"))
    assert {name: task.kind for name, task in data.tasks.items()} == {
        "tags": "multilabel", "age": "regression", "kind": "classification",
    }  # fmt: skip
    assert data.tasks["tags"].classes == ["big", "red"]
    assert sum(int(there.sum()) for split in data.splits for _, there in [data.labels(split)["tags"]]) == 15

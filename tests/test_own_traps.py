"""Tables as people have them, and what must not happen to them silently."""

import pytest
from own import loaded, picture, table_of

from tlmtl.errors import ConfigError


def rows(tmp_path, cells, count=24):
    """Images and, by column, what is in its cells: a list that is repeated, or a function of the row's number."""
    made = []
    for i in range(count):
        picture(tmp_path / f"{i}.png", i)
        made.append([f"{i}.png", *(one(i) if callable(one) else one[i % len(one)] for one in cells)])
    return made


def kinds(path):
    """The kinds of the tasks that have labels."""
    import tlmtl

    tasks = tlmtl.compose(["dataset=table", f"dataset.path={path}"]).dataset.tasks
    return {name: task.kind for name, task in tasks.items() if name != "reconstruction"}


@pytest.mark.parametrize("wrong", ["holdout", ""])
def test_a_wrong_cell_in_a_split_column_is_told(tmp_path, wrong):
    splits = lambda i: wrong if i == 5 else ["train", "Train", "VAL", "testing"][i % 4]  # noqa: E731
    path = str(table_of(tmp_path, rows(tmp_path, [["a", "b"], splits]), ["image", "k", "split"]))
    with pytest.raises(
        ConfigError, match=rf"'split' should say train, val or test in each row. Found '{wrong}' in row 7"
    ):
        loaded("table", path=str(path))


def test_two_columns_of_one_name_as_tasks(tmp_path):
    path = str(table_of(tmp_path, rows(tmp_path, [["x", "y"], ["a", "b"]]), ["image", "a.b", "a_b"]))
    with pytest.raises(ConfigError, match=r"'a.b' and 'a_b' would both be called 'a_b'"):
        kinds(path)


def test_numbers_of_rows_are_no_task(tmp_path):
    path = table_of(
        tmp_path, rows(tmp_path, [["a", "b"], str, lambda i: str(1000 + 7 * i)]), ["image", "k", "", "patient"]
    )
    assert kinds(path) == {"k": "classification"}
    data = loaded("table", path=str(path))
    assert "Columns that are no task here: column 3, patient" in " ".join(data.examples.notes)


def test_commas_inside_names_make_no_several_labels(tmp_path):
    cities = ["Paris, France", "Rome, Italy", "Lyon, France", "Bern"]
    path = table_of(
        tmp_path, rows(tmp_path, [cities, ["a", "b, c"], ["x,y", "x", "y,z", "z,x"]]), ["image", "c", "k", "m"]
    )
    assert kinds(path) == {"c": "classification", "k": "classification", "m": "multilabel"}
    data = loaded("table", path=str(path))
    assert data.examples.classes["c"] == sorted(cities) and data.examples.classes["m"] == ["x", "y", "z"]


def test_a_changed_image_is_seen_in_one_process(tmp_path):
    path = str(table_of(tmp_path, rows(tmp_path, [["a", "b"]]), ["image", "k"]))
    before = loaded("table", path=str(path)).hash
    picture(tmp_path / "3.png", 99)
    assert loaded("table", path=str(path)).hash != before


def test_the_names_of_classes_are_part_of_the_data(tmp_path):
    first = str(table_of(tmp_path, rows(tmp_path, [["a", "b"]]), ["image", "k"]))
    before = loaded("table", path=str(first)).hash
    again = str(table_of(tmp_path, rows(tmp_path, [["aa", "b"]]), ["image", "k"]))
    assert loaded("table", path=str(again)).hash != before


def test_a_class_whose_name_has_two_lines_can_be_drawn(main, tmp_path):
    path = str(table_of(tmp_path, rows(tmp_path, [["a", "new\nline"]]), ["image", "k"]))
    said = main("check", "dataset=table", f"dataset.path={path}", "+dataset.tasks.k.kind=classification")
    assert said.code == 0 and "Picture: " in said.out


def test_two_tables_over_one_folder_share_what_is_known(tmp_path, monkeypatch):
    from tlmtl.data import scan as scanning

    made = rows(tmp_path, [["a", "b"]], 40)
    paths = [str(tmp_path / row[0]) for row in made]
    cache = tmp_path / "cache"
    scanning.scan(paths[:20], cache), scanning.scan(paths[20:], cache)
    monkeypatch.setattr(scanning, "look_at", None)
    assert len(scanning.scan(paths, cache)) == 40

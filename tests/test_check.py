"""`tlmtl check`: everything that is wrong with a data set is told at once, and a picture shows what a model would see."""

import re
import shutil

import numpy as np
import pytest
import torch
from own import broken_folder, broken_table, counts, picture, table_of

torch.set_num_threads(1)


@pytest.fixture
def folder(tmp_path):
    return broken_folder(tmp_path / "d")


@pytest.fixture
def table(tmp_path):
    return broken_table(tmp_path / "t")


# A folder with everything wrong


def test_everything_wrong_with_a_folder_is_told_at_once(main, folder):
    said = main("check", "dataset=folder", "dataset.root=d")
    assert said.code == 1 and "Traceback" not in said.all, said.all
    assert "folder: 48 images of d\n  splits  29 train, 7 val, 12 test (the data's own)" in said.out
    assert "label: classification, 4 classes, largest 6 times the smallest" in said.out
    assert counts(said.out, "cat") == [18, 3, 5] and counts(said.out, "dog [big]") == [8, 2, 3]
    assert counts(said.out, "Bär") == [3, 2, 3] and counts(said.out, "cow") == [0, 0, 1]
    assert "sizes   48x32 (45), 160x32 (3)\n" in said.out
    kinds = re.search(
        r"kinds +(.*)\n +read +as colour; small_cnn takes the shorter side at 16 pixels, of that .* 16x16\n", said.out
    )
    assert kinds and set(kinds[1].split(", ")) == {
        "colour (44)", "grey (1)", "palette (1)", "colour with transparency (1)", "16-bit grey (1)"
    }  # fmt: skip


def test_what_train_would_refuse_is_named_with_what_to_do(main, folder):
    said = main("check", "dataset=folder", "dataset.root=d")
    _, _, told = said.out.partition("`tlmtl train` would refuse this data set, for 3 reasons\n")
    reasons = re.split(r"^\d\. ", told, flags=re.M)[1:]
    assert [reason.splitlines()[0] for reason in reasons] == [
        "2 of 50 images cannot be read.",
        "The test split has classes of 'label' that the training split has no example of: cow. Add training examples of them, "
        "leave them out, or (where the splits are cut for you) try another dataset.split_seed.",
        "1 of 12 test images has an exact copy among the training or validation images.",
    ]
    assert (
        "     d/train/cat/cut.png: image file is truncated\n     d/train/cat/notes.txt: no image of a known"
        in reasons[0]
    )
    assert "dataset.on_bad_image=skip" in reasons[0]
    assert "     test/cat/copy.png = train/cat/1.png\n" in reasons[2] and "dataset.on_duplicate=allow" in reasons[2]


def test_what_is_worth_knowing_of_a_folder(main, folder):
    said = main("check", "dataset=folder", "dataset.root=d", "dataset.on_bad_image=skip", "dataset.on_duplicate=allow")
    notes, _, told = said.out.partition("would refuse this data set, for 1 reason\n")
    assert "The test split has classes" in told and said.code == 1
    for words in (
        "- 2 of 50 images cannot be read.\n    d/train/cat/cut.png: image file is truncated\n",
        "They are left out (dataset.on_bad_image=skip).",
        "- Task 'label': 1 class with fewer than 5 training examples.\n    Bär: 3\n",
        "- Task 'label': the largest class has 6 times the training examples of the smallest.\n  train.class_weights=balanced",
        "- 1 of 12 test images has an exact copy among the training or validation images.\n    test/cat/copy.png = ",
        "- 1 of 7 validation images has an exact copy among the training images.\n    val/cat/copy.png = train/cat/2.png\n",
        "- 1 of 12 test images has a near copy (not pixel by pixel) among the training or validation images.\n"
        "    test/cat/near.jpg ~ train/cat/4.png\n",
        "- 1 image more than once in a split (exact copies).\n    train/cat/3.png = train/dog [big]/again.png (train)\n",
        "- 1 image with copies of another class (task 'label').\n    train/cat/3.png (cat) = train/dog [big]/again.png (dog",
        "- 3 images of 48 lose more than 50% to the model's crop: of 160x32 pixels, 20% are kept.\n",
        "- 1 of 1 deep image looked at (16 bits) uses less than 25% of the range.\n    train/cat/deep.png: 0 to 1,535\n",
    ):
        assert words in notes


def test_names_are_counted_and_all_of_them_on_request(main, tmp_path):
    for name in ("a", "b"):
        for i in range(30):
            picture(tmp_path / "d" / name / f"{i:02}.png", i + 100 * (name == "b"))
    for i in range(13):
        (tmp_path / "d" / "a" / f"x{i:02}.png").write_text("no image")
    said = main("check", "dataset=folder", "dataset.root=d")
    assert "x09.png: no image" in said.out and "x10.png" not in said.out
    assert "and 3 more (--all names them)" in said.out
    said = main("check", "--all", "dataset=folder", "dataset.root=d")
    assert said.code == 1 and "x12.png: no image" in said.out and "more (--all" not in said.out


def test_classes_too_small_to_divide_are_counted_all_the_same(main, tmp_path):
    for name, count in (("a", 9), ("b", 2)):
        for i in range(count):
            picture(tmp_path / "d" / name / f"{i}.png", 10 * i + (name == "b"))
    shutil.copy(tmp_path / "d" / "a" / "1.png", tmp_path / "d" / "a" / "again.png")
    said = main("check", "dataset=folder", "dataset.root=d")
    assert said.code == 1 and "splits  could not be made, see below" in said.out
    assert counts(said.out, "a") == [10] and counts(said.out, "b") == [2]
    assert "1. Class 'b' has 2 example(s), and needs at least 3" in said.out
    assert "1 image more than once in the data (exact copies).\n    a/1.png = a/again.png\n" in said.out


def test_of_many_classes_the_largest_and_the_smallest_are_shown(main, tmp_path):
    for c in range(30):
        for i in range(3 + (c == 7) * 4):
            picture(tmp_path / "d" / f"class{c:02}" / f"{i}.png", 100 * c + i)
    said = main("check", "dataset=folder", "dataset.root=d")
    assert said.code == 0, said.all
    assert counts(said.out, "class07")[0] > 1 and "... 10 more (--all)  1 to 1" in said.out
    assert len(re.findall(r"^  class\d\d ", said.out, re.M)) == 20
    assert len(re.findall(r"^  class\d\d ", main("check", "--all", "dataset=folder", "dataset.root=d").out, re.M)) == 30
    assert "12 of 30 classes, 39 images of" in said.out


# A table with everything wrong


def test_everything_wrong_with_a_table_is_told_at_once(main, table):
    said = main("check", "dataset=table", f"dataset.path={table}", "dataset.group_column=patient", "tasks=all")
    assert said.code == 1 and "Traceback" not in said.all, said.all
    assert "splits  24 train, 8 val, 9 test (the data's own)\n  groups  15 (dataset.group_column)\n" in said.out
    assert counts(said.out, "cat") == [12, 3, 4] and counts(said.out, "dog") == [11, 4, 4]
    assert counts(said.out, "cow") == [0, 0, 1] and counts(said.out, "(no label)") == [1, 1, 0]
    assert counts(said.out, "number") == [23, 8, 9] and counts(said.out, "(no value)") == [1, 0, 0]
    ages = [[i / 2 for i in range(24) if i != 5], [i / 2 for i in range(24, 32)], [*(i / 2 for i in range(32, 40)), 1]]
    for name in ("min", "mean", "max", "std"):
        values = " +".join(re.escape(f"{getattr(np, name)(split):.4g}") for split in ages)
        assert re.search(rf"^  {name} +{values}$", said.out, re.M), (name, said.out)
    assert counts(said.out, "fur") == [16, 6, 6] and counts(said.out, "wet") == [8, 2, 3]
    assert "- Task 'animal': 2 images without a label (1 in train, 1 in val)." in said.out
    for words in (
        "for 4 reasons",
        "1. 2 of 43 images cannot be read.",
        f"{table.parent}/notes.png: no image of a known format\n     row 42: gone.png: not there\n",
        "2. 1 group (dataset.group_column) on two sides of a split.\n     p10 (in val and test)\n   Mend the split column",
        "3. The test split has classes of 'animal' that the training split has no example of: cow",
        "4. 1 of 9 test images has an exact copy among the training or validation images.\n     copy.png = 1.png\n",
    ):
        assert words in said.out


def test_tasks_that_are_not_chosen_refuse_nothing(main, table):
    said = main(
        "check",
        "dataset=table",
        f"dataset.path={table}",
        "tasks=[age]",
        "dataset.on_bad_image=skip",
        "dataset.split=null",
    )
    assert "animal: classification, 3 classes" in said.out and "(not among this run's tasks)" in said.out
    assert "Class 'cow' has 1 example(s)" in said.out  # but the first classification decides how splits are cut
    said = main(
        "check",
        "dataset=table",
        f"dataset.path={table}",
        "tasks=[age]",
        "dataset.on_bad_image=skip",
        "dataset.on_duplicate=allow",
    )
    assert said.code == 0 and "There is nothing here that `tlmtl train` would refuse." in said.out
    assert "- The test split has classes of 'animal' that the training split has no example of: cow." in said.out


def test_copies_kept_together_are_not_refused(main, tmp_path):
    rows = []
    for i in range(20):
        picture(tmp_path / "t" / f"{i}.png", i)
        shutil.copy(tmp_path / "t" / f"{i}.png", tmp_path / "t" / f"again{i}.png")
        rows += [[f"{i}.png", "ab"[i % 2]], [f"again{i}.png", "ab"[i % 2]]]
    path = table_of(tmp_path / "t", rows, ["image", "label"])
    said = main("check", "dataset=table", f"dataset.path={path}")
    assert said.code == 1 and "or keep copies on one side with dataset.on_duplicate=together" in said.out
    said = main("check", "dataset=table", f"dataset.path={path}", "dataset.on_duplicate=together")
    assert said.code == 0 and "exact copy among" not in said.out and "20 images more than once in a split" in said.out


@pytest.mark.slow
def test_the_exit_code_is_what_train_would_do(main, folder, table):
    short = ("strategy=from_scratch", "train.epochs=1", "progress=false")
    skip = ("dataset.on_bad_image=skip", "dataset.on_duplicate=allow")
    for words in (
        ("dataset=folder", "dataset.root=d"),
        ("dataset=folder", "dataset.root=d", *skip),
        ("dataset=folder", "dataset.root=d/train", *skip),
        ("dataset=folder", "dataset.root=d/train", *skip, "dataset.fold=1/3"),
        ("dataset=folder", "dataset.root=d/train", *skip, "dataset.fold=1/9"),
        ("dataset=folder", "dataset.root=d/train", *skip, "dataset.labels_per_class=3"),
        ("dataset=table", f"dataset.path={table}", *skip, "tasks=[age]"),
        ("dataset=table", f"dataset.path={table}", *skip, "tasks=[age]", "dataset.group_column=patient"),
    ):
        checked, trained = main("check", *words), main("train", *words, *short)
        assert (checked.code, trained.code) in ((0, 0), (1, 2)), (words, checked.out, trained.all)

"""`tlmtl check`: the picture it draws, its flags, and where it prints to."""

import os
import re

import numpy as np
import pexpect
import pytest
from conftest import TLMTL, refused
from own import broken_folder, broken_table, counts
from PIL import Image

from tlmtl.help import HELP


@pytest.fixture
def folder(tmp_path):
    return broken_folder(tmp_path / "d")


@pytest.fixture
def table(tmp_path):
    return broken_table(tmp_path / "t")


# The picture


def blocks(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_the_picture_of_the_digits(main, tmp_path):
    said = main("check")
    assert said.code == 0 and said.out.endswith(
        "Picture: outputs/check/digits.png (task digit: 10 classes, 60 images of 16x16 pixels)\n"
    )
    assert "kept    50 of 988 training images (dataset.labels_per_class=5)" in said.out
    assert counts(said.out, "0") == [98, 5, 36, 44] and "(cut with dataset.split_seed=0)" in said.out
    assert sorted(path.name for path in (tmp_path / "outputs" / "check").iterdir()) == ["digits.png"]
    found = blocks(tmp_path / "outputs" / "check" / "digits.png")
    assert found.shape == (1566, 750, 3)
    tiles = {
        found[98 + 148 * row : 210 + 148 * row, 24 + 118 * c : 136 + 118 * c].tobytes()
        for row in range(10)
        for c in range(6)
    }
    assert len(tiles) == 60  # every tile shows another scan
    tile = found[98:210, 24:136, 0]
    assert (tile.reshape(16, 7, 16, 7) == tile[::7, None, ::7, None]).all()  # 16 pixels, each seven wide and high
    assert main("check").out == said.out and (blocks(tmp_path / "outputs" / "check" / "digits.png") == found).all()


def test_the_picture_shows_augmented_images_beside(main, tmp_path):
    said = main("check", "dataset.augment=digits", "--sheet", "some/where.png")
    assert said.code == 0 and "Picture: some/where.png" in said.out and not (tmp_path / "outputs").exists()
    found = blocks(tmp_path / "some" / "where.png")
    assert found.shape == (1566, 1488, 3)
    for row in range(10):
        left, right = (found[98 + 148 * row : 210 + 148 * row, x : x + 112] for x in (24, 762))
        assert left.std() > 20 and right.std() > 20 and not np.array_equal(left, right)


def test_the_picture_is_in_the_models_geometry(main, folder, tmp_path):
    said = main("check", "dataset=folder", "dataset.root=d", "model.image_size=32", "output.root=there")
    assert "Picture: there/check/folder.png (task label: 4 classes, 19 images of 32x32 pixels)" in said.out
    found = blocks(tmp_path / "there" / "check" / "folder.png")
    assert (
        found.shape[1] == 750 and (found[98 + 148 * 2 : 210 + 148 * 2, 24 + 118 :] == 255).all()
    )  # cow has a single image


@pytest.mark.parametrize(
    ("tasks", "title"), [("age", "36 images"), ("traits", "3 labels, 18 images"), ("all", "3 classes, 13 images")]
)
def test_the_picture_of_a_task(main, table, tasks, title):
    said = main("check", "dataset=table", f"dataset.path={table}", f"tasks={tasks if tasks == 'all' else f'[{tasks}]'}")
    name = "animal" if tasks == "all" else tasks
    assert f"(task {name}: {title} of 24x16 pixels)" in said.out


def test_two_digits_are_not_squeezed(main, tmp_path):
    assert main("check", "dataset=two_digits").code == 0
    assert (
        blocks(tmp_path / "outputs" / "check" / "two_digits.png").shape[0] < 1566
    )  # 16x28 pixels: tiles are not square


# The command


def test_wrong_commands(main, tmp_path):
    refused(main("check", "-m", "seed=0,1"), "`tlmtl check` looks at one config", "-m (--multirun)")
    refused(main("check", "resume=outputs/runs/latest"), "resume=FOLDER is for `tlmtl train`")
    refused(main("check", "--sheet", "images.jpg"), "Expected --sheet to name a PNG file", "found 'images.jpg'")
    refused(main("check", "--sheet"), "Expected --sheet to name a PNG file", "found ''")
    refused(main("check", "dataset=folder"), "'dataset.root' has no value")
    refused(main("check", "dataset=folder", "dataset.root=nowhere"), "should be a folder. Found nothing at nowhere")
    refused(main("check", "dataset.augment=flop"), "Unknown dataset.augment 'flop'. Did you mean 'flip'?")
    refused(main("check", "dataset.on_duplicate=alow"), "'dataset.on_duplicate' should be error, together, allow")
    refused(main("check", "tasks=[digits]"), "Unknown task 'digits'. Did you mean 'digit'?")
    refused(main("check", "model.image_size=2"), "'model.image_size' should be 8 or more")
    (tmp_path / "file").write_text("")
    said = main("check", "output.root=file")
    assert said.code == 2 and "'output.root' should be a folder that can be written" in said.err
    assert counts(said.out, "even")  # what was found is told all the same


def test_files_none_of_which_is_an_image_are_named(main, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "d" / name).mkdir(parents=True)
        (tmp_path / "d" / name / "0.png").write_text("no image")
    refused(
        main("check", "dataset=folder", "dataset.root=d"),
        "found 2 of 2 files that cannot be read",
        "d/a/0.png: no image of",
    )


def test_flags_in_any_position_and_cfg(main):
    said = main("check", "--cfg", "job", "seed=3")
    assert said.code == 0 and "seed: 3" in said.out and "digit" in said.out
    assert "exit codes: 0" in HELP["check"].lower()


def test_a_narrow_terminal(tmp_path, folder):
    said = pexpect.run(
        f"{TLMTL} check dataset=folder dataset.root=d", cwd=tmp_path, encoding="utf-8", timeout=120,
        env={**os.environ, "COLUMNS": "60", "TERM": "xterm"},
    )  # fmt: skip
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in said.splitlines()]
    assert max(len(line) for line in lines if not line.startswith("Picture: ")) <= 60
    assert any(re.fullmatch(r"  dog \[big\] +8 +2 +3 *", line) for line in lines), said
    assert any(line.startswith("3. 1 of 12 test images has an exact copy") for line in lines)


def test_a_pipe_breaks_no_line(tlmtl, tmp_path, folder):
    said = tlmtl(["check", "dataset=folder", "dataset.root=d"], tmp_path, COLUMNS="60")
    assert said.code == 1 and "\x1b" not in said.all and said.err == ""
    assert "     d/train/cat/notes.txt: no image of a known format\n" in said.out
    assert not any(line.endswith(" ") for line in said.out.splitlines())

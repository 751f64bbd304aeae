"""The same picture on two sides of a split: refused, kept together, told."""

import shutil
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from own import loaded, picture, table_of
from PIL import Image

from tlmtl.data import duplicates
from tlmtl.data.examples import Examples
from tlmtl.data.images import ArrayImages
from tlmtl.data.splits import divide_copies
from tlmtl.errors import ConfigError

EASY = settings(deadline=None, max_examples=40)


@pytest.fixture
def twins(tmp_path):
    """A table of 20 images and a copy of each, of two classes."""
    rows = []
    for i in range(20):
        picture(tmp_path / f"{i}.png", i)
        shutil.copy(tmp_path / f"{i}.png", tmp_path / f"again{i}.png")
        rows += [[f"{i}.png", "ab"[i % 2]], [f"again{i}.png", "ab"[i % 2]]]
    return str(table_of(tmp_path, rows, ["image", "label"]))


def test_copies_across_splits_are_refused_by_name(twins):
    with pytest.raises(ConfigError) as error:
        loaded("table", path=twins)
    lines = str(error.value).splitlines()
    count = int(lines[0].split()[0])
    assert lines[0] == f"{count} of the 10 test images are exact copies of training or validation images:" and count > 5
    for line in lines[1:6]:
        one, other = line.strip().rstrip(")").split(" (as ")
        assert {one, other} == {one.replace("again", ""), f"again{one.replace('again', '')}"}
    assert lines[6] == f"  and {count - 5} more" and "dataset.on_duplicate=together" in lines[7]


def test_copies_together_and_allowed(twins):
    data = loaded("table", path=twins, on_duplicate="together")
    sides = [{data.examples.ids[i].replace("again", "") for i in where} for where in data.splits.values()]
    assert sum(map(len, sides)) == 20 and sum(map(len, data.splits.values())) == 40
    assert not any("exact copies" in note for note in data.examples.notes)
    data = loaded("table", path=twins, on_duplicate="allow")
    assert any("test images are exact copies of training" in note and "=allow" in note for note in data.examples.notes)
    with pytest.raises(ConfigError, match=r"'dataset.on_duplicate' should be error, together, allow. Found 'allwo'"):
        loaded("table", path=twins, on_duplicate="allwo")


@EASY
@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.data())
def test_groups_hold_their_copies(hashes, data):
    groups = np.array(data.draw(st.lists(st.integers(0, 5), min_size=len(hashes), max_size=len(hashes))))
    found = duplicates.together(np.array(hashes), groups)
    for i in range(len(hashes)):
        for j in range(i):
            if hashes[i] == hashes[j] or groups[i] == groups[j]:
                assert found[i] == found[j]


def test_copies_of_a_large_set_are_kept_together_at_once():
    """Half of the images are copies; 5,000 took seconds when each image was a group of its own."""
    pixels = np.random.default_rng(0).integers(0, 255, (2500, 1, 4, 4), dtype=np.uint8)
    pixels, labels = np.concatenate([pixels, pixels]), np.tile(np.arange(2500) % 100, 2)
    examples = Examples(
        ArrayImages(pixels), {"k": labels}, {"k": [str(i) for i in range(100)]}, [str(i) for i in range(5000)]
    )
    began = time.perf_counter()
    found = divide_copies(examples, 0.2, 0.2, 0, None, "together")
    assert time.perf_counter() - began < 2
    assert sorted(np.concatenate(list(found.values())).tolist()) == list(range(5000))
    for where in found.values():
        assert set((where + 2500) % 5000) == set(where)
        assert len(set(np.bincount(labels[where]))) == 1  # every class in proportion


def own_splits(top, change):
    """Training and validation images, and test images of which the first is what `change` makes of a training image."""
    for split, first in (("train", 0), ("val", 100), ("test", 200)):
        for i in range(8):
            picture(top / split / "ab"[i % 2] / f"{i}.png", first + i)
    change(Image.open(top / "train" / "a" / "0.png"), top / "test" / "a" / "0.png")
    return str(top)


def test_a_copy_is_known_by_its_pixels(tmp_path):
    def grey_twice(image, path):
        image.convert("L").save(path.parents[2] / "train" / "a" / "0.png")
        image.convert("L").convert("RGB").save(path)  # grey pixels, kept as colour

    for name, change in (("file", lambda image, path: image.save(path, compress_level=1)), ("grey", grey_twice)):
        with pytest.raises(
            ConfigError, match=r"1 of the 8 test images are exact .*\n  test/a/0.png \(as train/a/0.png\)"
        ):
            loaded("folder", root=own_splits(tmp_path / name, change))


@pytest.mark.parametrize(
    "change",
    [
        lambda image, path: image.save(path, format="JPEG", quality=90, subsampling=0),
        lambda image, path: Image.fromarray((np.asarray(image) * 0.85).astype(np.uint8)).save(path),
        lambda image, path: image.resize((96, 64), Image.Resampling.BICUBIC).save(path),
    ],
    ids=["saved again as JPEG", "darker", "larger"],
)
def test_near_copies_are_noted(tmp_path, change):
    data = loaded("folder", root=own_splits(tmp_path, change))
    (note,) = [note for note in data.examples.notes if "look much like" in note]
    assert note.startswith(
        "1 of the 8 test images look much like a training or validation image, such as test/a/0.png (as train/"
    )


def test_other_pictures_are_no_copies(tmp_path):
    data = loaded("folder", root=own_splits(tmp_path, lambda image, path: None))
    assert data.examples.notes == []


@EASY
@given(st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=12), st.data())
def test_near_finds_what_comparing_all_finds(looks, data):
    looks = np.array(looks + [look ^ 3 for look in looks[:2]] + looks[:1], dtype=np.uint64)
    hashes = np.arange(len(looks))
    order = np.array(data.draw(st.permutations(range(len(looks)))))
    cut = data.draw(st.integers(1, len(looks)))
    splits = {"train": order[:cut], "test": order[cut:]}
    found = {j for _, j in duplicates.near(looks, hashes, splits, "train", "test")}
    assert found == {
        int(j) for j in splits["test"]
        if min(bin(int(looks[i]) ^ int(looks[j])).count("1") for i in splits["train"]) <= duplicates.ALIKE
    }  # fmt: skip

"""Image files and folders as users have them, and augmentation."""

from zlib import crc32

import numpy as np
import pytest
import torch
from PIL import Image

from tlmtl.config import Dataset
from tlmtl.data.augment import AUGMENTATIONS, augmentation
from tlmtl.data.dataset import load
from tlmtl.data.decode import decode, decode_fast
from tlmtl.data.folder import folder
from tlmtl.data.images import ArrayImages
from tlmtl.data.scan import images_of, scan
from tlmtl.data.streams import Stream, generator_for
from tlmtl.errors import ConfigError
from tlmtl.preprocess import Preprocess

torch.set_num_threads(1)
AS_IS = Preprocess(8, None, (0.5,), (0.5,))


def picture(path, seed=0, size=(8, 8), mode="L"):
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path)
    return path


def classes(top, count=10, names=("cat", "dog")):
    for c, name in enumerate(names):
        for i in range(count):
            picture(top / name / f"{i}.png", seed=crc32(f"{top.name} {c} {i}".encode()))
    return top


def loaded(root, **more):
    from omegaconf import OmegaConf

    node = OmegaConf.create(
        {
            **OmegaConf.to_container(OmegaConf.structured(Dataset())),
            "_target_": "tlmtl.data.folder.folder",
            "root": str(root),
        }
        | {
            "tasks": {
                "label": {"kind": "classification", "target": None, "metrics": [], "primary": True, "weight": 1.0}
            }
        }
        | more
    )
    return load(node, "default", [])


@pytest.mark.parametrize("name", [name for name in AUGMENTATIONS if name != "none"])
def test_two_samples_of_one_batch_are_augmented_differently(name):
    one = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 1, 8, 8), dtype=np.uint8))
    batch = one.repeat(8, 1, 1, 1)
    changed = augmentation(name)(batch, generator_for("test", 0))
    assert changed.shape == batch.shape and changed.dtype == torch.uint8
    different = {tuple(image.flatten().tolist()) for image in changed}
    assert len(different) >= {"flip": 2, "trivial_augment": 6}.get(name, 8)
    assert torch.equal(batch, one.repeat(8, 1, 1, 1))  # what is kept in memory stays as it was
    with pytest.raises(ConfigError, match=rf"Unknown dataset.augment '{name}s'. Did you mean '{name}'\?"):
        augmentation(f"{name}s")


def test_augmentation_follows_seed_stream_and_step_alone():
    images = ArrayImages(np.random.default_rng(0).integers(0, 256, (6, 1, 8, 8), dtype=np.uint8))
    stream = Stream("train", images, torch.arange(6), {}, {}, AS_IS, "digits")
    where = torch.tensor([4, 1, 2])

    def drawn(*words):
        torch.manual_seed(len(words))  # the global generator plays no part
        torch.rand(5)
        return stream.part(where, generator_for("augment", *words)).input

    same = drawn(0, "target", 3)
    assert torch.equal(same, drawn(0, "target", 3))
    for words in ((1, "target", 3), (0, "source", 3), (0, "target", 4)):
        assert not torch.equal(same, drawn(*words))
    assert torch.equal(stream.part(where).input, stream.part(where).input)  # without a generator: as it is
    assert not torch.equal(stream.part(where).input, same)


def test_a_folder_of_classes_is_cut(tmp_path):
    data = loaded(classes(tmp_path / "d"))
    assert data.tasks["label"].classes == ["cat", "dog"] and data.channels == 1
    assert {split: len(where) for split, where in data.splits.items()} == {"train": 12, "val": 4, "test": 4}
    assert data.examples.ids[data.splits["train"][0]].startswith("cat/")
    assert data.stream("val", AS_IS).part(torch.arange(4)).input.shape == (4, 1, 8, 8)


def test_a_folder_with_splits_has_only_the_missing_one_cut(tmp_path):
    classes(tmp_path / "train"), classes(tmp_path / "test", count=3)
    data = loaded(tmp_path)
    named = {split: [data.examples.ids[i] for i in where] for split, where in data.splits.items()}
    assert {split: len(ids) for split, ids in named.items()} == {"train": 16, "val": 4, "test": 6}
    assert all(name.startswith("test/") for name in named["test"])
    assert all(name.startswith("train/") for name in named["train"] + named["val"])
    assert not set(named["train"]) & set(named["val"])
    classes(tmp_path / "valid", count=2)
    data = loaded(tmp_path)  # the folder has changed, so it is read again
    assert {split: len(where) for split, where in data.splits.items()} == {"train": 20, "val": 4, "test": 6}


def test_files_that_are_no_images_are_named_or_counted(tmp_path):
    top = classes(tmp_path / "d")
    (top / "cat" / "notes.txt").write_text("not an image")
    whole = picture(top / "dog" / "cut.png", size=(64, 64)).read_bytes()
    (top / "dog" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (top / "dog" / ".hidden").write_text("passed over")
    with pytest.raises(ConfigError, match=r"found 2 of 22 files that cannot be read") as error:
        folder(str(top))
    assert "cat/notes.txt" in str(error.value) and "dog/cut.png: image file is truncated" in str(error.value)
    data = loaded(top, on_bad_image="skip")
    assert data.examples.skipped == 2 and len(data.examples) == 20
    with pytest.raises(ConfigError, match=r"'dataset.on_bad_image' should be error or skip. Found 'skpi'"):
        folder(str(top), "skpi")


def test_folders_that_are_none(tmp_path):
    with pytest.raises(ConfigError, match=r"should be a folder. Found nothing at"):
        folder(str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"should be a folder. Found a file at"):
        folder(str(picture(tmp_path / "file.png")))
    for i in range(4):
        picture(tmp_path / f"{i}.png", seed=i + 1)
    with pytest.raises(ConfigError, match=r"found none .images lie in the folder itself"):
        loaded(tmp_path)
    (tmp_path / "empty" / "a").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"Expected images at .*/empty/<class>/\*"):
        folder(str(tmp_path / "empty"))
    picture(tmp_path / "nested" / "animals" / "cat" / "1.png")
    with pytest.raises(
        ConfigError, match=r"found none .images lie deeper, such as .*/animals/cat/1.png: dataset=table"
    ):
        folder(str(tmp_path / "nested"))
    with pytest.raises(ConfigError, match=r"two classes or more in .*, found 1: cat"):
        loaded(classes(tmp_path / "one", names=("cat",)))
    top = tmp_path / "stray"
    classes(top / "train"), classes(top / "test", names=("cat", "cow"))
    with pytest.raises(
        ConfigError, match=r"The test split has classes of 'label' that the training .* no example of: cow"
    ):
        loaded(top)
    classes(tmp_path / "small", count=2)
    with pytest.raises(ConfigError, match=r"Class 'cat' has 2 example\(s\), and needs at least 3"):
        loaded(tmp_path / "small")


def test_decoding_kinds_of_pictures(tmp_path):
    path = tmp_path / "image.png"

    def decoded(image, channels=None, **more):
        image.save(path, **more)
        return decode(path, channels)

    grey = np.arange(0, 240, dtype=np.uint8).reshape(12, 20)
    assert decoded(Image.fromarray(grey)).tolist() == grey[None].tolist()
    assert decoded(Image.fromarray(grey), 3).tolist() == [grey.tolist()] * 3
    rgb = np.stack([grey, grey // 2, 255 - grey], 2)
    assert decoded(Image.fromarray(rgb)).tolist() == rgb.transpose(2, 0, 1).tolist()
    assert decoded(Image.fromarray(rgb), 1).shape == (1, 12, 20)
    alpha = np.dstack([rgb, np.where(np.arange(20) < 10, 0, 255)[None].repeat(12, 0).astype(np.uint8)])
    over = decoded(Image.fromarray(alpha))
    assert (over[:, :, :10] == 255).all() and over[:, :, 10:].tolist() == rgb.transpose(2, 0, 1)[:, :, 10:].tolist()
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    assert decoded(palette).tolist() == [[[255, 0]], [[0, 0]], [[0, 255]]]
    deep = np.array([[0, 257, 65535, 257 * 100]], np.uint16)
    assert decoded(Image.fromarray(deep)).tolist() == [[[0, 1, 255, 100]]]
    assert decoded(Image.new("LA", (2, 2), (7, 255))).tolist() == [[[7, 7], [7, 7]]]
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    assert decoded(Image.fromarray(grey), exif=exif).tolist() == np.rot90(grey, -1)[None].tolist()


def test_pictures_that_cannot_be_read_alike_are_refused(tmp_path):
    for mode, told in (("LAB", "colours in LAB"), ("F", "32-bit floating point")):
        Image.new(mode, (5, 5)).save(tmp_path / "image.tif")
        for channels in (None, 1, 3):
            with pytest.raises(OSError, match=told):
                decode(tmp_path / "image.tif", channels)


def test_mixed_folders_become_colour_and_square(tmp_path):
    paths = [picture(tmp_path / "a.png", size=(20, 10)), picture(tmp_path / "b.png", size=(9, 12), mode="RGB")]
    images = images_of([str(path) for path in paths], scan([str(path) for path in paths]), np.arange(2))
    assert images.channels == 3 and not images.same_shape
    assert images.read(torch.tensor([1, 0]), AS_IS).shape == (2, 3, 8, 8)
    alone = images_of([str(paths[0])], scan([str(paths[0])]), np.arange(1))
    assert alone.read(torch.tensor([0]), AS_IS).shape == (1, 1, 8, 16)  # nothing is cropped that need not be
    copy = ArrayImages(decode(paths[0])[None])
    assert copy.hashes().tolist() == alone.hashes().tolist()  # the same pixels, wherever they are kept


def test_the_fast_way_gives_the_same_pixels(tmp_path):
    random, path = np.random.default_rng(0), tmp_path / "image.jpg"
    colour = np.kron(random.integers(0, 255, (9, 11, 3)), np.ones((7, 7, 1))).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = {
        "colour": (Image.fromarray(colour), {}),
        "no subsampling": (Image.fromarray(colour), {"subsampling": 0, "progressive": True}),
        "grey": (Image.fromarray(colour[..., 0]), {}),
        "turned": (Image.fromarray(colour), {"exif": exif}),
        "cmyk": (Image.fromarray(colour).convert("CMYK"), {}),
        "no jpeg": (Image.fromarray(colour), {"format": "PNG"}),
    }
    for name, (image, more) in kinds.items():
        image.save(path, **{"quality": 80, **more})
        for channels in (1, 3):
            assert np.array_equal(decode_fast(str(path), channels), decode(path, channels)), (name, channels)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(OSError, match="truncated"):
        decode_fast(str(path), 3)
    Image.fromarray(colour).save(path)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(OSError, match="truncated"):
        decode_fast(str(path), 3)

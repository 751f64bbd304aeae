"""Images are decoded once for all epochs, runs and processes, and are the same to the byte."""

import logging
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from own import loaded, picture, table_of
from PIL import Image

import tlmtl
from tlmtl.assemble import assemble
from tlmtl.data import decoded
from tlmtl.data.decoded import Decoded
from tlmtl.data.images import ArrayImages, FileImages
from tlmtl.data.scan import images_of, scan, scan_items
from tlmtl.errors import TlmtlError
from tlmtl.preprocess import Preprocess
from tlmtl.store import making

GREY = ((0.5,), (0.5,))


@pytest.fixture(autouse=True)
def told(monkeypatch, caplog):
    monkeypatch.setattr(making, "_told", set())
    monkeypatch.setattr(logging.getLogger("tlmtl"), "propagate", True)
    caplog.set_level(logging.INFO, logger="tlmtl")


@pytest.fixture
def always(monkeypatch):
    """Keep however few images there are."""
    monkeypatch.setattr(decoded, "WORTH_IT", 0.0)
    monkeypatch.setattr(decoded, "PER_BYTE", 0.0)


@pytest.fixture
def reads(monkeypatch) -> list[int]:
    """How many images were decoded, each time that some were."""
    found: list[int] = []
    real = FileImages.read

    def counting(self, indices, preprocess, as_known=False):
        found.append(len(indices))
        return real(self, indices, preprocess, as_known)

    monkeypatch.setattr(FileImages, "read", counting)
    return found


def some_images(folder: Path, sizes=((48, 32),), mode="RGB", suffix="png", count=12) -> FileImages:
    paths = [
        str(picture(folder / f"{i}.{suffix}", i, sizes[i % len(sizes)], mode if i % 3 else "L")) for i in range(count)
    ]
    facts = scan(paths)
    assert (facts.error == "").all()
    return images_of(paths, facts, np.arange(count))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), resize=st.integers(4, 40), crop=st.booleans(), in_memory=st.booleans())
def test_what_is_kept_is_what_is_read(always, data, resize, crop, in_memory):
    with tempfile.TemporaryDirectory() as folder:
        of = some_images(
            Path(folder) / "images",
            data.draw(st.sampled_from([[(48, 32)], [(48, 32), (30, 60), (20, 20)]])),
            data.draw(st.sampled_from(["RGB", "L", "RGBA", "P"])),
            data.draw(st.sampled_from(["png", "tif"])),
        ).as_channels(data.draw(st.sampled_from([1, 3])))
        preprocess = Preprocess(
            resize,
            min(resize, 16) if crop else None,
            *GREY,
            data.draw(st.sampled_from(["bilinear", "bicubic"])),
            data.draw(st.sampled_from([None, (12, 20)])),
        )
        every = torch.arange(len(of))
        read = of.read(every, preprocess)
        for _ in range(2):
            found = Decoded(Path(folder) / "cache", None).of(of, tuple(read.shape[1:]), preprocess, every.numpy())
            assert found is not None
            at = torch.tensor(data.draw(st.lists(st.integers(0, len(of) - 1), min_size=1, max_size=20)))
            rows = found.rows(at.numpy(), in_memory)
            assert rows is not None and torch.equal(rows[torch.arange(len(at))], read[at])


def test_two_geometries_and_two_data_sets_do_not_meet(tmp_path, always, reads):
    """Rows of one folder in the cache have one shape: a wide picture and a square one are kept apart."""
    for sizes in ([(48, 32)], [(32, 32)]):
        of = some_images(tmp_path / str(sizes[0][0]), sizes)
        for resize in (8, 10):
            preprocess = Preprocess(resize, None, *GREY)
            shape = tuple(of.read(torch.arange(1), preprocess).shape[1:])
            for _ in range(2):
                found = Decoded(tmp_path / "cache", None).of(of, shape, preprocess, np.arange(12))
                assert found is not None
                rows = found.rows(np.arange(12), False)
                assert rows is not None and rows.shape == shape
    assert len(list((tmp_path / "cache" / "images").glob("*/about.json"))) == 4
    assert reads == [1, 12] * 4


def test_what_would_not_pay_is_not_kept(tmp_path, monkeypatch):
    of, preprocess = some_images(tmp_path / "images"), Preprocess(16, 16, *GREY)
    every, shape = np.arange(12), (3, 16, 16)
    assert Decoded(tmp_path, None).of(of, shape, preprocess, every) is None  # a few images
    monkeypatch.setattr(decoded, "WORTH_IT", 0.0)
    assert Decoded(tmp_path, None).of(of, shape, preprocess, every) is not None
    assert Decoded(tmp_path, None).of(of, (3, 2000, 2000), preprocess, every) is None  # larger than the files
    assert Decoded(tmp_path, 1).of(of, (3, 200, 200), preprocess, every) is None  # 1.4 MB
    assert Decoded(tmp_path, 0).of(of, shape, preprocess, every) is None
    arrays = ArrayImages(np.zeros((12, 3, 16, 16), np.uint8))
    assert Decoded(tmp_path, None).of(arrays, shape, preprocess, every) is None
    many = 60 * 12  # 720 photographs of 1,500 pixels a side
    of.facts.height[:], of.facts.width[:] = 1500, 1500
    monkeypatch.setattr(decoded, "WORTH_IT", 1.0)
    assert Decoded(tmp_path, None).of(of, (3, 224, 224), preprocess, np.tile(every, many // 12)) is not None


# ------------------------------------------------------------------------------------------------------------------- runs


def folder_of(top: Path, count: int = 40) -> Path:
    random = np.random.default_rng(0)
    for i in range(count):
        path = top / ["dark", "light"][i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((random.integers(0, 120, (12 + i % 3, 12)) + 120 * (i % 2)).astype(np.uint8)).save(path)
    return top


def run(root: str, *words: str):
    common = ["strategy=from_scratch", "train.epochs=3", "progress=false", "hardware.threads=1"]
    return tlmtl.run(tlmtl.compose([*common, f"output.root={root}", *words]))


@pytest.mark.parametrize("megabytes", [0, 1])
def test_a_run_gives_the_bytes_of_one_that_keeps_nothing_and_the_next_does_not_decode(
    tmp_path, monkeypatch, always, reads, megabytes
):
    monkeypatch.chdir(tmp_path)
    folder_of(tmp_path / "d")
    words = ["dataset=folder", "dataset.root=d", f"hardware.images_mb={megabytes}", "dataset.augment=crop_flip"]
    without = run("without", *words, "output.cache_mb=0", "output.cache=c0")
    assert sum(n for n in reads if n > 1) == (3 * 22 + 4 * 8 + 10 if megabytes == 0 else 40)
    reads.clear()
    first = run("first", *words, "output.cache=cache")
    assert sum(n for n in reads if n > 1) == 40
    reads.clear()
    second = run("second", *words, "output.cache=cache")
    assert sum(n for n in reads if n > 1) == 0
    for name in ("predictions.parquet", "model.safetensors"):
        assert len({(one.folder / name).read_bytes() for one in (without, first, second)}) == 1
    assert len({one.rows["config_hash"][0] for one in (without, first, second)}) == 1
    assert not (tmp_path / "c0" / "images").exists()


def test_tables_are_kept_as_folders_are(tmp_path, monkeypatch, always, reads):
    monkeypatch.chdir(tmp_path)
    rows = [[str(picture(tmp_path / f"{i}.png", i).name), "ab"[i % 2]] for i in range(40)]
    table_of(tmp_path, rows, ["file", "letter"])
    words = ["dataset=table", "dataset.path=labels.csv", "output.cache=cache", "train.epochs=1"]
    run("one", *words)
    reads.clear()
    run("two", *words)
    assert sum(n for n in reads if n > 1) == 0


def test_an_image_that_has_changed_under_its_name_is_another_image(tmp_path, always):
    def data():
        return loaded(
            "folder", root=str(folder_of(tmp_path / "d") if not (tmp_path / "d").exists() else tmp_path / "d")
        )

    preprocess = Preprocess(8, 8, *GREY)
    for _ in range(2):
        one = data()
        one.decoded = Decoded(tmp_path / "cache", None)
        stream = one.stream("train", preprocess)
        assert stream.resized is not None
        plain = one.examples.images.read(stream.where, preprocess)
        assert torch.equal(stream.kept[torch.arange(len(stream))], plain)
        changed = tmp_path / "d" / one.examples.ids[int(stream.where[0])]
        Image.fromarray(np.full((12, 12), 77, np.uint8)).save(changed)


def test_an_image_that_changes_during_a_run_is_not_kept_under_its_old_hash(tmp_path, always):
    of, preprocess = some_images(tmp_path / "images", mode="L"), Preprocess(8, 8, *GREY)
    found = Decoded(tmp_path / "cache", None).of(of, (1, 8, 8), preprocess, np.arange(12))
    picture(tmp_path / "images" / "5.png", 99, mode="L")
    assert found is not None
    with pytest.raises(TlmtlError, match="has changed since the data set was looked at"):
        found.rows(np.arange(12), True)


def test_images_of_a_library_are_known_by_their_pixels(tmp_path, always):
    pictures = [Image.open(picture(tmp_path / f"{i}.png", i, mode="RGB" if i % 2 else "L")) for i in range(6)]
    facts = scan_items(6, lambda i: pictures[i], "mine", 1)
    of, preprocess = FileImages(lambda i: pictures[i], facts), Preprocess(8, None, *GREY)
    for channels in (3, 1):
        taken = of.as_channels(channels)
        found = Decoded(tmp_path / "cache", None).of(taken, (channels, 8, 12), preprocess, np.arange(6))
        assert found is not None
        rows = found.rows(np.arange(6), True)
        assert rows is not None and torch.equal(rows[torch.arange(6)], taken.read(torch.arange(6), preprocess))
    pictures[4] = pictures[2]
    found = Decoded(tmp_path / "another", None).of(of, (3, 8, 12), preprocess, np.arange(6))
    assert found is not None
    with pytest.raises(TlmtlError, match=r"has changed .* \(number 4 of 6\)"):
        found.rows(np.arange(6), True)


@pytest.mark.parametrize("megabytes", [0, 1])
def test_a_cache_that_cannot_be_written_makes_no_run_hold_all_images(
    tmp_path, monkeypatch, caplog, always, reads, megabytes
):
    monkeypatch.chdir(tmp_path)
    folder_of(tmp_path / "d")
    monkeypatch.setattr(making, "RESERVE", 2**60)  # of a disk that is as good as full
    data = loaded("folder", root=str(tmp_path / "d"))
    data.decoded, data.in_memory = Decoded(tmp_path / "cache", None), megabytes * 2**20
    stream = data.stream("train", Preprocess(8, 8, *GREY))
    stream.ready()
    assert (stream.kept is None) is (megabytes == 0)
    assert stream.part(torch.arange(4)).input.shape == (4, 1, 8, 8)
    assert caplog.text.count("The cache cannot be written") == 1


def test_images_that_are_read_once_are_not_kept(tmp_path, monkeypatch):
    """Where the features of a frozen backbone are kept instead, and in a run that does not get to see every image."""
    monkeypatch.chdir(tmp_path)
    folder_of(tmp_path / "d")
    common = ["dataset=folder", "dataset.root=d", "source=none", "strategy.init=random"]
    probe, tuned = ["strategy=linear_probe"], ["strategy=finetune_all"]
    short = ["train.epochs=8ex", "train.batch_size=4"]
    never = ["features.cache=never"]
    for words, there in ((probe, False), (tuned, True), ([*probe, *never], True), ([*tuned, *short], False)):
        parts = assemble(tlmtl.compose([*common, *words]))
        assert (parts.data["target"].decoded is not None) is there, words

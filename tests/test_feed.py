"""Batches made in the background, and data that are streamed from their files: the same numbers, bounded memory."""

import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

import tlmtl
from tlmtl.data.feed import ahead
from tlmtl.data.images import in_threads


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_all_come_in_order(depth):
    assert [found for found, _ in ahead(lambda i: i * i, range(20), depth)] == [i * i for i in range(20)]


def test_no_more_are_made_than_the_depth_says():
    made = []
    feed = ahead(lambda i: made.append(i) or i, range(100), 2)
    assert next(feed)[0] == 0
    time.sleep(0.1)
    assert made == [0, 1, 2]
    assert next(feed)[0] == 1
    feed.close()
    assert len(made) <= 4 and not [t for t in threading.enumerate() if t.name.startswith("tlmtl-feed")]


def test_an_error_comes_when_its_turn_comes():
    feed = ahead(lambda i: 1 // (2 - i), range(5), 2)
    assert [next(feed)[0], next(feed)[0]] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(feed)


def test_making_is_hidden_behind_work():
    waits = []
    for _, waited in ahead(lambda i: time.sleep(0.02), range(10), 2):
        time.sleep(0.03)
        waits.append(waited)
    assert sum(waits[1:]) < 0.05  # 9 times 0.02 without the thread


def test_threads_keep_order_and_stop_at_an_error():
    assert in_threads(lambda i: i + 1, range(1000)) == list(range(1, 1001))
    seen = []

    def fail(i: int) -> int:
        seen.append(i)
        if i == 3:
            raise ValueError("third")
        return i

    with pytest.raises(ValueError, match="third"):
        in_threads(fail, range(100_000))
    time.sleep(0.05)
    assert len(seen) < 1000


def images(top, count=40):
    random = np.random.default_rng(0)
    for i in range(count):
        path = top / ["dark", "light"][i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((random.integers(0, 120, (12 + i % 3, 12)) + 120 * (i % 2)).astype(np.uint8)).save(path)
    return top


@pytest.mark.parametrize("augment", ["none", "trivial_augment"])
def test_a_streamed_run_gives_the_bytes_of_one_in_memory(tmp_path, monkeypatch, augment):
    monkeypatch.chdir(tmp_path)
    images(tmp_path / "d")
    common = [
        "dataset=folder", "dataset.root=d", "strategy=from_scratch", "train.epochs=3", f"dataset.augment={augment}",
        "progress=false", "hardware.threads=1",
    ]  # fmt: skip
    kept = tlmtl.run(tlmtl.compose([*common, "output.root=kept"]))
    streamed = tlmtl.run(tlmtl.compose([*common, "output.root=streamed", "hardware.images_mb=0"]))
    for name in ("predictions.parquet", "model.safetensors"):
        assert (kept.folder / name).read_bytes() == (streamed.folder / name).read_bytes()
    assert kept.rows["config_hash"][0] == streamed.rows["config_hash"][0]
    assert streamed.rows["data_wait"][0] > 0


def test_streams_read_ahead_only_when_they_are_not_kept(tmp_path, monkeypatch):
    from tlmtl.assemble import assemble, setup
    from tlmtl.hardware import machine

    monkeypatch.chdir(tmp_path)
    images(tmp_path / "d")
    for megabytes, kept, lookahead in ((1, True, 0), (0, False, 2)):
        overrides = ["dataset=folder", "dataset.root=d", "strategy=from_scratch", f"hardware.images_mb={megabytes}"]
        cfg = tlmtl.compose(overrides)
        made = setup(assemble(cfg), machine(cfg.hardware, 1))
        assert (made.streams["target"].keep, made.lookahead) == (kept, lookahead)
        assert made.streams["target"].part(torch.arange(3)).input.shape == (3, 1, 16, 16)

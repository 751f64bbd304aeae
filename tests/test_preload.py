"""The runs of a sweep find data and source parameters in memory."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import os, sys, threading
import tlmtl
from tlmtl import pretrain
from tlmtl.sweep import preload
cfg = pretrain.with_source(tlmtl.compose([{words}]))
preload.announce([cfg, cfg])
del sys.modules["tlmtl.sweep.preload"]
import torch
torch.set_num_threads(2)
import tlmtl.sweep.preload
assert os.environ.get("TLMTL_PRELOAD") is None
assert torch.get_num_threads() == 2
if os.fork() == 0:
    from tlmtl import assemble, config, initial
    from tlmtl.data import dataset
    def no(*_, **__):
        raise AssertionError("loaded again")
    {forbid}
    parts = assemble.assemble(cfg)
    torch.set_num_threads(2)
    torch.nn.functional.conv2d(torch.randn(8, 3, 64, 64), torch.randn(16, 3, 3, 3)).sum()  # threads work in a child
    parts.data["target"].examples.images.read(torch.arange(64), parts.encoder.preprocess)  # and those that decode
    print("shared", flush=True)
    os._exit(0)
_, status = os.wait()
sys.exit(os.waitstatus_to_exitcode(status))
"""


def said(words: str, forbid: str, folder: Path) -> subprocess.CompletedProcess:
    script = SCRIPT.format(words=words, forbid=forbid)
    return subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, timeout=300)


def test_a_child_has_data_and_source_from_the_start(tmp_path):
    found = said('"source.train.epochs=1"', "dataset.build = initial.build = no", tmp_path)
    assert (found.returncode, found.stdout.strip().splitlines()[-1]) == (0, "shared"), found.stderr


def test_a_folder_of_images_is_read_on_in_a_child(tmp_path):
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for number in range(80):
        path = tmp_path / "images" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 20), dtype=np.uint8)).save(path)
    words = f'"dataset=folder", "dataset.root={tmp_path / "images"}", "strategy=from_scratch"'
    found = said(words, "dataset.build = no", tmp_path)
    assert (found.returncode, found.stdout.strip().splitlines()[-1]) == (0, "shared"), found.stderr


def test_many_different_data_sets_are_left_to_each_run(monkeypatch):
    import tlmtl
    from tlmtl.sweep import preload

    monkeypatch.delenv(preload.NAME, raising=False)
    sizes = [tlmtl.compose(["strategy=from_scratch", f"dataset.val_fraction=0.1{i}"]) for i in range(preload.MOST + 1)]
    preload.announce(sizes[:-1])
    assert preload.NAME in os.environ
    preload.announce(sizes)
    assert preload.NAME not in os.environ

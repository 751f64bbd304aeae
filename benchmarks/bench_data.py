"""What reading images costs beside the plainest ways to do it, and that memory does not grow with the data.

- decode: a folder of 2,000 JPEG files of 500 px to 224 px, as this program streams them, over a torch DataLoader with as many
  workers, torchvision's decoder and its v2 transforms. Goal: at least 0.9 of its throughput.
- predict: images through `tlmtl predict`'s engine, files to rows, over the bare model on batches that are there. Goal: within
  10 % of its throughput.
- memory: peak of a run on N small images streamed from their files, for two N. Goal: flat. `--images 200000` for the whole.

Ratios are medians over rounds in which both sides take turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

CORES = len(os.sched_getaffinity(0))
ROUNDS = 7


def photographs(top: Path, count: int, side: int = 500) -> list[str]:
    """JPEG files of `side` px that weigh what photographs do (about 50 kB): blocks of colour with some grain."""
    random = np.random.default_rng(0)
    paths = []
    for i in range(count):
        path = top / f"{'ab'[i % 2]}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if i < 100:
            blocks = np.kron(random.integers(0, 255, (32, 32, 3)), np.ones((16, 16, 1)))[:side, :side]
            pixels = (blocks + random.normal(0, 8, blocks.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(path, quality=85)
        else:
            path.write_bytes(Path(paths[i % 100]).read_bytes())
        paths.append(str(path))
    return paths


class Bare(torch.utils.data.Dataset):
    """What a tutorial would write."""

    def __init__(self, paths: list[str]) -> None:
        from torchvision.transforms import v2

        self.paths, self.transform = paths, v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(224)])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        from torchvision.io import ImageReadMode, decode_image

        return self.transform(decode_image(self.paths[index], ImageReadMode.RGB))


def timed(batches) -> float:
    """Images per second."""
    began, count = time.perf_counter(), 0
    for batch in batches:
        count += len(batch)
    return count / (time.perf_counter() - began)


def decode(top: Path) -> None:
    from tlmtl.data.feed import ahead
    from tlmtl.data.scan import images_of, scan
    from tlmtl.preprocess import Preprocess

    paths = photographs(top / "jpeg", 2000)
    images = images_of(paths, scan(paths), np.arange(len(paths)))
    preprocess = Preprocess(256, 224, (0.5,) * 3, (0.5,) * 3)
    rounds = []
    for _ in range(ROUNDS):
        loader = torch.utils.data.DataLoader(Bare(paths), batch_size=32, num_workers=CORES)
        bare = timed(loader)
        parts = torch.arange(len(paths)).split(32)
        ours = timed(batch for batch, _ in ahead(lambda at: images.read(at, preprocess), parts))
        rounds.append((ours / bare, ours, bare))
    tell("decode: throughput over a bare DataLoader's", rounds)


def predict(top: Path) -> None:
    from tlmtl.models.heads import LinearHead
    from tlmtl.models.torchvision import torchvision_model
    from tlmtl.predict.engine import Engine
    from tlmtl.predict.model import Trained
    from tlmtl.predict.run import Told, predictions
    from tlmtl.sharing.hard import HardSharing
    from tlmtl.tasks.classification import Classification

    paths = photographs(top / "jpeg", 2000)[:256]
    encoder = torchvision_model("resnet18")
    task = Classification("label", ["a", "b"], ["accuracy"])
    model = HardSharing(encoder, {"label": LinearHead(encoder.feature_size, 2)}).eval()
    trained = Trained(model, {"label": task}, encoder.preprocess, 3, (224, 224))
    engine = Engine(trained)
    batch = torch.cat([trained.read(path) for path in paths[:32]])
    inputs = engine.normalize(batch).contiguous(memory_format=engine.format)
    rounds = []
    for _ in range(ROUNDS):
        with torch.inference_mode():
            bare = timed(engine.model(inputs, ["label"]).heads["label"] for _ in range(len(paths) // 32))
        ours = timed([row] for row in predictions(trained, [(p, p) for p in paths], 1, 32, Told()))
        rounds.append((ours / bare, ours, bare))
    tell("predict: throughput over the bare ResNet-18's", rounds)


def tell(what: str, rounds: list[tuple[float, float, float]]) -> None:
    ratios = [ratio for ratio, _, _ in rounds]
    ours, bare = (statistics.median(one[i] for one in rounds) for i in (1, 2))
    print(
        f"{what} {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); {ours:.0f} and {bare:.0f} images/s"
    )


def streamed(count: int, top: Path) -> None:
    """In a process of its own: one run over `count` files, what finding them takes, and the run's peak above that."""
    import tlmtl
    from tlmtl.data.dataset import load
    from tlmtl.hardware import PeakMemory

    folder, random = top / f"small-{count}", np.random.default_rng(0)
    if not folder.exists():
        for name in "ab":
            (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(random.integers(0, 255, (32, 32), dtype=np.uint8)).save(folder / "ab"[i % 2] / f"{i}.jpg")
    cfg = tlmtl.compose([
        "dataset=folder", f"dataset.root={folder}", "strategy=from_scratch", "hardware.images_mb=0", "train.epochs=500st",
        "train.evaluate_every=100%", f"output.root={top}", f"output.cache={top}", "progress=false",
    ])  # fmt: skip
    before = PeakMemory._now("VmRSS") or 0.0
    load(cfg.dataset, cfg.tasks, [], top)
    found = (PeakMemory._now("VmRSS") or 0.0) - before
    row = tlmtl.run(cfg).rows.iloc[0]
    print(json.dumps({"found": found, "peak": row["peak_memory_mb"]}))


def memory(top: Path, largest: int) -> None:
    for count in (largest // 10, largest):
        words = [sys.executable, __file__, "--streamed", str(count), "--top", str(top)]
        line = subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
        said = json.loads(line)
        print(
            f"memory: {count} images found in {said['found']:.0f} MB, then streamed with a peak of {said['peak']:.0f} MB more"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--streamed", type=int)
    parser.add_argument("--top", type=Path)
    options = parser.parse_args()
    if options.streamed:
        streamed(options.streamed, options.top)
    else:
        with tempfile.TemporaryDirectory() as name:
            decode(Path(name))
            predict(Path(name))
            memory(Path(name), options.images)

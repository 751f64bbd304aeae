"""Method I on 2,624 photographs of solar cells, EfficientNet-Lite0 at 224 px, 20 epochs: the whole command, against the loop of
a tutorial, which runs the frozen backbone in every step (fp32, batches of 32); and again with features cached, against
scikit-learn's LogisticRegression on the same features.

The tutorial's loop takes some 20 minutes, so a few of its batches are timed and the rest is counted: 20 passes over training
images and 20 over validation. `--whole` runs it to its end, for its test accuracy.

Then memory: a probe on 50,000 x 1,280 features, in memory and from files, over what its imports hold; and time and memory for
ten and a hundred times as many images, drawn as a picture.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.nn import functional as F

import tlmtl
from tlmtl import hardware
from tlmtl.assemble import assemble, setup
from tlmtl.features.frozen import Frozen

TLMTL = str(Path(sys.executable).with_name("tlmtl"))
PROBE = ["+experiment=elpv", "strategy=linear_probe", "dataset.augment=none", "model.image_size=224", "train.epochs=20"]
PROBE += ["progress=false"]
TIMED = 12  # batches of the tutorial's loop


def tutorial(whole: bool) -> tuple[float, float | None]:
    """Seconds of training and validating for 20 epochs, and with `whole` the accuracy on test of the best of them."""
    cfg = tlmtl.compose(PROBE)
    parts = assemble(cfg)
    data, backbone, task = parts.data["target"], parts.encoder.module, parts.tasks["defect"]
    train, val, test = (data.stream(split, parts.encoder.preprocess) for split in ("train", "val", "test"))
    for stream in (train, val, test):
        stream.ready()
    head = parts.model.heads["defect"]
    for parameter in backbone.parameters():
        parameter.requires_grad = False
    optimizer = torch.optim.AdamW(head.parameters(), lr=cfg.optimizer.lr)
    steps = -(-len(train) // 32)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, cfg.optimizer.lr, total_steps=20 * steps, pct_start=0.25)
    torch.manual_seed(0)

    def accuracy(stream) -> float:
        hits = 0
        with torch.no_grad():
            for at in torch.arange(len(stream)).split(32):
                hits += int((head(backbone(stream.input(at))).argmax(1) == stream.targets["defect"][at]).sum())
        return hits / len(stream)

    best, found, spent, done = -1.0, None, 0.0, 0
    for _ in range(20):
        backbone.eval()
        for at in torch.randperm(len(train)).split(32):
            began = time.perf_counter()
            optimizer.zero_grad()
            F.cross_entropy(head(backbone(train.input(at))), train.targets["defect"][at]).backward()
            optimizer.step()
            schedule.step()
            spent += time.perf_counter() - began
            done += 1
            if not whole and done == TIMED:
                began = time.perf_counter()
                with torch.no_grad():
                    for some in torch.arange(TIMED * 32).split(32):
                        head(backbone(val.input(some % len(val))))
                each = (time.perf_counter() - began) / TIMED
                return 20 * (steps * spent / TIMED + -(-len(val) // 32) * each), None
        began = time.perf_counter()
        score = accuracy(val)
        spent += time.perf_counter() - began
        if score > best:
            best, found = score, accuracy(test)
    assert task.outputs == 2
    return spent, found


def ours(cache: str) -> tuple[float, dict[str, str]]:
    """Seconds of the whole command, and its row."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        subprocess.run([TLMTL, "train", *PROBE, f"output.cache={cache}"], cwd=folder, check=True, capture_output=True)
        taken = time.perf_counter() - began
        with (Path(folder) / "outputs/runs/latest/results.csv").open() as file:
            return taken, next(csv.DictReader(file))


def sklearn(cache: str) -> tuple[float, float]:
    """Seconds of LogisticRegression on the same features, as they are and standardised, until it converges."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    cfg = tlmtl.compose([*PROBE, f"output.cache={cache}"])
    parts = assemble(cfg)
    machine = hardware.machine(cfg.hardware, parts.encoder.threads, parts.encoder.memory_format)
    (phase,) = Frozen(parts, setup(parts, machine), machine, Path(cache)).phases(0)
    stream = phase.streams["target"]
    features, labels = stream.input(torch.arange(len(stream))).values.numpy(), stream.targets["defect"].numpy()
    found = []
    for given in (features, StandardScaler().fit_transform(features)):
        began = time.perf_counter()
        LogisticRegression(max_iter=10_000).fit(given, labels)
        found.append(time.perf_counter() - began)
    return found[0], found[1]


MEMORY = """
import json, sys, tempfile, time
from pathlib import Path
import numpy as np, torch
import tlmtl.job
from tlmtl.store.rows import Store
from tlmtl.hardware import PeakMemory
n, d, megabytes = map(int, sys.argv[1:4])
def make(at):
    for some in np.array_split(at, max(1, len(at) // 1000)):
        yield np.random.default_rng(int(some[0])).standard_normal((len(some), d), dtype=np.float32)
with tempfile.TemporaryDirectory(dir=sys.argv[4]) as folder:
    memory, began = PeakMemory(), time.perf_counter()
    rows = Store(Path(folder), "features", {"n": n}, None).fetch(np.arange(n), make, megabytes * 2**20).rows
    head = torch.nn.Linear(d, 10)
    optimizer = torch.optim.AdamW(head.parameters())
    for epoch in range(2):
        for at in torch.randperm(n).split(256):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(head(rows[at]), at % 10).backward()
            optimizer.step()
    print(json.dumps([memory.megabytes(torch.device("cpu")), time.perf_counter() - began]))
"""


def memory(n: int, in_memory: bool, folder: str) -> tuple[float, float]:
    """Megabytes above the imports, and seconds, of making n x 1,280 features and two epochs on them."""
    said = subprocess.run(
        [sys.executable, "-c", MEMORY, str(n), "1280", "100000" if in_memory else "0", folder],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return tuple(json.loads(said.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--whole", action="store_true", help="run the tutorial's loop to its end (20 minutes or more)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--half", action="store_true", help="with hardware.precision=bf16-mixed")
    parser.add_argument("--plot", help="where to draw time and memory against the number of images")
    parser.add_argument("--folder", default=os.environ.get("TMPDIR", "/var/tmp"), help="with room for 2 GB")
    given = parser.parse_args()
    if given.half:
        PROBE.append("hardware.precision=bf16-mixed")
    ratios, work, fits, scaled = [], [], [], []
    for number in range(given.rounds):
        with tempfile.TemporaryDirectory() as cache:
            theirs, accuracy = tutorial(given.whole and number == 0)
            first, row = ours(cache)
            again, row_again = ours(cache)
            plain, standard = sklearn(cache)
        ratios.append(theirs / first)
        inner = sum(float(row[key] or 0) for key in ("features_seconds", "train_seconds", "eval_seconds"))
        work.append(theirs / inner)
        print(
            f"the tutorial's loop {theirs:.0f} s; tlmtl {first:.1f} s, of which {inner:.1f} s are features ({row['engine']}), "
            f"training and evaluation, {again:.1f} s with features cached; test accuracy {float(row['test/accuracy']):.4f}"
            + (f", the tutorial's {accuracy:.4f}" if accuracy is not None else "")
        )
        spent = float(row_again["train_seconds"]) + float(row_again["eval_seconds"])
        fits.append(spent / plain)
        scaled.append(spent / standard)
    print(f"first run: {statistics.median(ratios):.0f} times faster ({min(ratios):.0f} to {max(ratios):.0f}), goal 100")
    print(f"without start and end of the program: {statistics.median(work):.0f} ({min(work):.0f} to {max(work):.0f})")
    said = f"{statistics.median(fits):.2f} ({min(fits):.2f} to {max(fits):.2f})"
    print(f"training and evaluation with features cached over LogisticRegression.fit: {said}, goal 1")
    said = f"{statistics.median(scaled):.2f} ({min(scaled):.2f} to {max(scaled):.2f})"
    print(f"the same over LogisticRegression.fit on standardised features: {said}")
    if given.half:
        return
    size = 50_000 * 1280 * 4 / 2**20
    held, mapped = memory(50_000, True, given.folder)[0], memory(50_000, False, given.folder)[0]
    print(
        f"50,000 x 1,280 features ({size:.0f} MB): {held / size:.2f} of it in memory, goal 1.2; "
        f"{mapped:.0f} MB from files, goal 300"
    )
    sizes = [5_000, 50_000, 500_000]
    found = [memory(n, False, given.folder) for n in sizes]
    for n, (megabytes, seconds) in zip(sizes, found, strict=True):
        print(f"{n:,} images from files: {seconds:.1f} s, {seconds / n * 1e6:.0f} us each, {megabytes:.0f} MB")
    if given.plot:
        draw(sizes, found, given.plot)


def draw(sizes: list[int], found: list[tuple[float, float]], path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    _, axes = pyplot.subplots(1, 2, figsize=(8, 3), layout="constrained")
    megabytes, seconds = zip(*found, strict=True)
    axes[0].loglog(sizes, seconds, marker="o")
    axes[0].set(xlabel="images", ylabel="seconds")
    axes[1].semilogx(sizes, megabytes, marker="o")
    axes[1].set(xlabel="images", ylabel="MB above the imports", ylim=(0, 500))
    pyplot.savefig(path, dpi=120)


if __name__ == "__main__":
    main()

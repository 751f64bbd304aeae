"""What waiting costs: whole commands, wall time over that of `python -c "import torch"`, measured in turn with it.

python benchmarks/bench_startup.py [--times N] [--only WORD]
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TLMTL = str(Path(sys.executable).parent / "tlmtl")
TORCH = [sys.executable, "-c", "import torch"]
ONE = ["train", "train.epochs=1", "source.train.epochs=1", "progress=false"]
PROBES = ["train", "-m", "strategy=linear_probe", "optimizer.lr=1e-4,3e-4,1e-3,3e-3,1e-2,3e-2,1e-1,3e-1"]
PROBES += ["optimizer.weight_decay=0,1e-3,1e-2,1e-1", "seed=0,1", "progress=false"]
TWELVE = ["train", "-m", "strategy=linear_probe,finetune_all", "seed=0,1,2,3,4,5", *ONE[1:]]

# name, command, goal; {outputs}: those of twelve runs
ROWS = [
    ("tlmtl --help", ["--help"], 0.33),
    ("tlmtl train --help", ["train", "--help"], 0.33),
    ("wrong choice: strategy=finetune", ["train", "strategy=finetune"], 0.3),
    ("wrong key: train.epoch=3", ["train", "train.epoch=3"], 0.3),
    ("wrong type: seed=abc", ["train", "seed=abc"], 0.3),
    ("wrong value: optimizer.lr=abc", ["train", "optimizer.lr=abc"], 1.5),
    ("wrong value: dataset.labels_per_class=1000", ["train", "dataset.labels_per_class=1000"], 1.5),
    ("one epoch, source kept", ONE, 2.0),
    ("one epoch, source made first", ONE, 2.5),
    ("64 linear probes, source kept", PROBES, 4.0),
    ("compare, twelve runs", ["compare", "{outputs}"], 0.5),
    ("report, twelve runs", ["report", "{outputs}"], 1.2),
]


def seconds(command: list[str], cwd: str) -> float:
    began = time.perf_counter()
    subprocess.run(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=600)
    return time.perf_counter() - began


def row(name: str, one: list[str], other: list[str], goal: float, times: int, cache: Path | None = None) -> None:
    """Print the median over `times` of one/other. `cache`: forgotten before each time."""
    pairs = []
    for number in range(times + 1):  # the first is a warm-up
        if cache is not None:
            shutil.rmtree(cache, ignore_errors=True)
        with tempfile.TemporaryDirectory() as cwd:
            pair = seconds(one, cwd), seconds(other, cwd)
        if number:
            pairs.append(pair)
    ratios = [a / b for a, b in pairs]
    a, b = (statistics.median(side) for side in zip(*pairs, strict=True))
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(f"{name}: {statistics.median(ratios):.2f} ({spread}; goal {goal:g}; {a:.2f} s / {b:.2f} s)", flush=True)


def main(times: int, only: str) -> None:
    place = Path(tempfile.mkdtemp(prefix="tlmtl-bench-"))
    kept, fresh = f"output.cache={place / 'cache'}", place / "fresh"
    subprocess.run([TLMTL, *TWELVE, kept], cwd=place, check=True, capture_output=True)
    subprocess.run([TLMTL, *PROBES[:3], PROBES[-1], kept], cwd=place, check=True, capture_output=True)
    for name, words, goal in ROWS:
        if only not in name:
            continue
        command = [TLMTL, *(word.format(outputs=place / "outputs") for word in words)]
        made_first = "made first" in name
        if words[0] == "train" and "--help" not in words:
            command.append(f"output.cache={fresh}" if made_first else kept)
        row(name, command, TORCH, goal, times, fresh if made_first else None)
    if only in "twelve runs over one":
        row("a sweep of twelve one-epoch runs / one", [TLMTL, *TWELVE, kept], [TLMTL, *ONE, kept], 3.0, times)
    shutil.rmtree(place)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--only", default="", help="rows whose name holds this")
    settings = parser.parse_args()
    main(settings.times, settings.only)

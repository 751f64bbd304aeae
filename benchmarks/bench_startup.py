"""Start-up: `--help` against `import torch` (goal: a third at most), 12 one-step runs against one (goal: below 3)."""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TLMTL = str(Path(sys.executable).parent / "tlmtl")
ONE_STEP = ["train.epochs=1st", "progress=false"]


def seconds(command: list[str], cwd: str) -> float:
    began = time.perf_counter()
    subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def ratio(name: str, one: list[str], other: list[str], goal: float, times: int, fresh: bool = False) -> None:
    """Print the median over `times` of one/other, measured in turn."""
    ratios = []
    for number in range(times + 1):  # the first is a warm-up
        with tempfile.TemporaryDirectory() as cwd:
            a, b = seconds(one, cwd), seconds(other, cwd)
        if number:
            ratios.append(a / b)
    middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
    print(f"{name}: {middle:.2f} (from {low:.2f} to {high:.2f}; goal: at most {goal:.2f}; last: {a:.2f} s / {b:.2f} s)")


if __name__ == "__main__":
    torch = [sys.executable, "-c", "import torch"]
    ratio("tlmtl --help / import torch", [TLMTL, "--help"], torch, 1 / 3, 5)
    ratio("tlmtl train --help / import torch", [TLMTL, "train", "--help"], torch, 1 / 3, 5)
    single = [TLMTL, "train", *ONE_STEP]
    subprocess.run(single, cwd=tempfile.mkdtemp(), check=True, capture_output=True)  # the source is there from here on
    sweep = [TLMTL, "train", "-m", "strategy=linear_probe,finetune_all", "seed=0,1,2,3,4,5", *ONE_STEP]
    ratio("a sweep of 12 one-step runs / one", sweep, single, 3.0, 3)

"""`tlmtl compare` on 10,000 runs as a user meets it: a process from its start to its last line.

    python benchmarks/bench_compare.py

Three ways: one table of a sweep through a pipe and in a terminal of 120 columns, and 10,000 folders of runs. Each is the best
of three, in seconds of wall time; the last column is the processor's own time.
"""

import csv
import os
import pty
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS, SEEDS = 10_000, 5
TLMTL = Path(sys.executable).with_name("tlmtl")


def rows() -> list[dict]:
    """Runs of 2,000 groups: 20 strategies, 10 learning rates and 10 numbers of labels, 5 seeds each, as a sweep writes them."""
    from tlmtl import columns

    contract = [*columns.ROW, *columns.SETTINGS, *columns.PLAN, *columns.COSTS, *columns.PROVENANCE]
    made = []
    for n in range(RUNS):
        group, seed = divmod(n, SEEDS)
        figure = (group * 7919 % 1000) / 1000 + seed / 5000
        made.append(dict.fromkeys(contract, "") | {
            "run_id": f"20260101-000000_s_{n:012x}", "config_hash": f"{n:012x}", "group_id": f"g{group:011x}",
            "status": "done", "dataset": "digits", "task": "digit", "kind": "classification", "primary": "true",
            "model": "small_cnn", "source": "pretrain", "strategy": f"s{group % 20}", "tasks": "digit", "sharing": "hard",
            "seed": seed, "labels_per_class": group // 20 % 10 + 1, "epochs": 60, "batch_size": 32, "optimizer": "adamw",
            "lr": (group // 200 + 1) / 1000, "weight_decay": 0.01, "overrides": "dataset.augment=flip",
            "val/accuracy": figure, "test/accuracy": figure, "test/loss": 1 - figure, "device": "cpu",
            "precision": "32-true", "threads": 1, "train_seconds": 1 + figure, "seconds_per_step": 0.02, "peak_memory_mb": 100,
            "parameters": 94186, "parameters_trained": 1290, "data_hash": "9a4f374d305a", "tlmtl": "0.1.0",
        })  # fmt: skip
    return made


def write(path: Path, some: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(some[0]))
        writer.writeheader()
        writer.writerows(some)


def in_pipe(*argv: str) -> None:
    subprocess.run([TLMTL, "compare", *argv], capture_output=True, check=True)


def in_terminal(*argv: str) -> None:
    """In a pseudo-terminal, in colours, read to its end."""
    leader, follower = pty.openpty()
    child = subprocess.Popen(
        [TLMTL, "compare", *argv],
        stdout=follower,
        stderr=follower,
        env={**os.environ, "COLUMNS": "120", "TERM": "xterm"},
    )
    os.close(follower)
    try:
        while os.read(leader, 1 << 16):
            pass
    except OSError:  # the other end is closed
        pass
    os.close(leader)
    assert child.wait() == 0


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        made, sweep, folders = rows(), Path(scratch) / "sweep", Path(scratch) / "runs"
        write(sweep / "results.csv", made)
        for one in made:
            write(folders / one["run_id"] / "results.csv", [one])
            for name in ("config.yaml", "run.json", "history.csv", "log.txt", "predictions.parquet"):
                (folders / one["run_id"] / name).touch()
        print(f"compare on {RUNS:,} runs of {RUNS // SEEDS:,} groups, {os.cpu_count()} cores")
        for name, call in [
            ("one table, through a pipe", lambda: in_pipe(str(sweep))),
            ("one table, in a terminal", lambda: in_terminal(str(sweep))),
            ("one table, --baseline", lambda: in_pipe(str(sweep), "--baseline", "strategy=s0")),
            ("10,000 folders of runs", lambda: in_pipe(str(folders))),
        ]:
            taken = []
            for _ in range(3):
                began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
                call()
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                taken.append((time.perf_counter() - began, used))
            print(
                f"{name:28} {min(taken)[0]:6.2f} s  {min(used for _, used in taken):6.2f} s of a processor", flush=True
            )


if __name__ == "__main__":
    main()

"""How long `tlmtl report` takes for a sweep of 1,000 runs, and how large its page is. Goal: under 10 s and 5 MB.

The sweep is made up, but for its files: folders with config, history (20 validations), predictions of the 450 test digits and a
record, and one table with all rows. 200 set-ups of 5 seeds: 4 strategies, 10 learning rates, 5 numbers of labels.

    python benchmarks/bench_report.py
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from tlmtl import results

STRATEGIES = ["from_scratch", "linear_probe", "finetune_all", "staged"]
LABELS = [1, 2, 5, 10, 50]
STEPS = 20
TLMTL = Path(sys.executable).with_name("tlmtl")


def sweep(top: Path, setups: int, seeds: int) -> Path:
    """Writes the folder of a sweep of `setups` x `seeds` runs on the digits."""
    from omegaconf import OmegaConf

    import tlmtl
    from tlmtl.data.parts import streams_of

    cfg = tlmtl.compose(["strategy=linear_probe"])
    data = streams_of(cfg.dataset, cfg.tasks, [], None)["target"]
    config = OmegaConf.to_yaml(OmegaConf.create(OmegaConf.to_container(cfg, resolve=True)))
    where = data.splits["test"]
    ids, truth = [data.ids[i] for i in where], data.targets["digit"].numpy()[where]
    random, rows = np.random.default_rng(0), []
    for setup in range(setups):
        strategy, labels = STRATEGIES[setup % 4], LABELS[setup // 4 % 5]
        lr = round(0.0005 * 1.6 ** (setup // 20), 6)
        quality = 0.6 + 0.08 * np.log(labels) + 0.02 * (setup % 4) - 0.01 * (setup // 20)
        for seed in range(seeds):
            key = f"{setup:06x}{seed:06x}"
            folder = top / key
            folder.mkdir(parents=True)
            wanted = float(np.clip(quality + random.normal(0, 0.015), 0.1, 0.99))
            reached = _predict(folder / "predictions.parquet", ids, truth, wanted, random)
            identity = {"run_id": f"20260101-000000_{strategy}_{key}", "config_hash": key, "group_id": f"{setup:012x}"}
            row = {
                **identity, "status": "done", "dataset": "digits", "task": "digit", "kind": "classification",
                "primary": True, "model": "small_cnn", "source": "none" if strategy == "from_scratch" else "pretrain",
                "strategy": strategy, "tasks": "digit", "sharing": "hard", "seed": seed, "labels_per_class": labels,
                "epochs": 60, "batch_size": 32, "optimizer": "adamw", "lr": lr, "weight_decay": 0.01,
                "val/accuracy": reached, "val/loss": 1 - reached, "test/accuracy": reached,
                "test/loss": 1 - reached, "device": "cpu", "precision": "32-true", "threads": 1, "steps": 600,
                "train_seconds": float(random.uniform(0.5, 20)), "seconds_per_step": 0.01, "peak_memory_mb": 100.0,
                "parameters_trained": 94186, "data_hash": data.hash, "tlmtl": tlmtl.__version__, "torch": "2.14.1",
            }  # fmt: skip
            rows.append(row)
            results.write_rows(folder / "results.csv", [row])
            record = {**identity, "status": "done", "versions": {"python": "3.11"}, "hardware": {"cores": 2}}
            (folder / "run.json").write_text(json.dumps(record))
            (folder / "config.yaml").write_text(config)
            (folder / "history.csv").write_text(_history(reached, random))
    results.write_rows(top / "results.csv", rows)
    return top


def _history(reached: float, random: np.random.Generator) -> str:
    lines = ["step,epoch,split,task,name,value"]
    for at in range(1, STEPS + 1):
        now = reached * (1 - np.exp(-at / 4)) + random.normal(0, 0.005)
        lines += [
            f"{30 * at},{3 * at},train,digit,loss,{1 - now}", f"{30 * at},{3 * at},val,digit,loss,{1.1 - now}",
            f"{30 * at},{3 * at},val,digit,accuracy,{now}", f"{30 * at},{3 * at},val,digit,macro_f1,{now}",
            f"{30 * at},{3 * at},train,,lr,0.001", f"{30 * at},{3 * at},val,,score,{now}",
        ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _predict(path: Path, ids: list[str], truth: np.ndarray, wanted: float, random: np.random.Generator) -> float:
    """Writes scores of which about the share `wanted` is right; returns which share is."""
    scores = random.normal(0, 1, (len(ids), 10))
    scores[np.arange(len(ids)), truth] += np.where(random.random(len(ids)) < wanted, 6, -2)
    columns = {"split": ["test"] * len(ids), "id": ids, "task": ["digit"] * len(ids), "target": truth.astype(float)}
    parquet.write_table(pa.table({**columns, "output": list(scores)}), path)
    return float((scores.argmax(1) == truth).mean())


def measure(setups: int, seeds: int) -> tuple[float, float, float]:
    """Seconds of the command, its start included, seconds that processors worked for it, and MB of its page."""
    with tempfile.TemporaryDirectory() as folder:
        top = sweep(Path(folder) / "sweep", setups, seeds)
        page = Path(folder) / "report.html"
        began, worked = time.perf_counter(), _worked()
        command = [str(TLMTL), "report", str(top), "--out", str(page)]
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - began, _worked() - worked, page.stat().st_size / 1e6


def _worked() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--setups", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    seconds, worked, size = measure(options.setups, options.seeds)
    runs = options.setups * options.seeds
    print(f"report of {runs:,} runs: {seconds:.1f} s ({worked:.1f} s of work), {size:.2f} MB (goal: 10 s, 5 MB)")
    sys.exit(0 if seconds < 10 and size < 5 else 1)

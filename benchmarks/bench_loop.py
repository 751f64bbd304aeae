"""What the loop costs over a bare PyTorch loop that does the same steps, and the peak memory of a default run.

Both train the same model with the same optimizer, schedule, batches and pre-processing, without evaluation; in turn, several
times, and the median ratio is printed. Goals: at most 1.05 on ResNet-18 at 64 px, 1.15 on small_cnn.
"""

import json
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
from tlmtl.checkpoint import seed_everything
from tlmtl.data.streams import plan
from tlmtl.loop import fit
from tlmtl.training import State, Watch


class Never(Watch):
    """Sees nothing."""


def prepared(overrides: list[str]):
    cfg = tlmtl.compose(["strategy=from_scratch", "dataset.labels_per_class=50", *overrides])
    parts = assemble(cfg)
    made = setup(parts, hardware.machine(cfg.hardware, parts.encoder.threads))
    made.evaluate_every = made.checkpoint_every = 10**9
    return made


def ours(overrides: list[str]) -> float:
    made = prepared(overrides)
    made.validation = made.streams
    seed_everything(0)
    state = State()
    made.evaluate_every = made.total + 1  # the last step evaluates all the same; its time is kept apart
    fit(made, state, Never())
    return state.seconds["train"] / state.step


def bare(overrides: list[str]) -> float:
    """The same steps as one would write them by hand."""
    made = prepared(overrides)
    model, stream = made.model, made.streams["target"]
    backbone, head = model.backbone, model.heads["digit"]
    images, labels = stream.kept, stream.targets["digit"]
    mean, std = (
        torch.tensor(stream.preprocess.mean).view(1, -1, 1, 1),
        torch.tensor(stream.preprocess.std).view(1, -1, 1, 1),
    )
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed}, {"params": others, "weight_decay": 0.0}], lr=3e-3, weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=made.total, pct_start=0.25)
    model.train()
    seed_everything(0)
    began, step = time.perf_counter(), 0
    while step < made.total:
        for draw in plan({"target": len(stream)}, made.batch_size, 0, step // made.steps_per_epoch):
            inputs = ((images[draw["target"]].float() / 255) - mean) / std
            optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(head(backbone(inputs)), labels[draw["target"]])
            loss.item()  # a loop that shows its loss reads it
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            if step == made.total:
                break
    return (time.perf_counter() - began) / step


def compare(name: str, overrides: list[str], goal: float, times: int) -> None:
    ratios = []
    for number in range(times + 1):  # the first is a warm-up
        a, b = ours(overrides), bare(overrides)
        if number:
            ratios.append(a / b)
    middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
    print(f"{name}: {middle:.3f} (from {low:.3f} to {high:.3f}; goal: at most {goal}; last: {a * 1e3:.2f} ms a step)")


def peak_memory() -> None:
    with tempfile.TemporaryDirectory() as cwd:
        command = [str(Path(sys.executable).parent / "tlmtl"), "train", "progress=false"]
        subprocess.run(command, cwd=cwd, check=True, capture_output=True)
        subprocess.run([*command, "seed=1"], cwd=cwd, check=True, capture_output=True)
        found = json.loads((Path(cwd) / "outputs/runs/latest/run.json").read_text())["costs"]["peak_memory_mb"]
    print(f"peak memory of a default run above its imports: {found:.0f} MB (goal: at most 300)")


if __name__ == "__main__":
    compare("small_cnn, loop / bare loop", ["train.epochs=400st"], 1.15, 5)
    resnet = ["model=resnet18", "model.image_size=64", "train.epochs=40st"]
    compare("ResNet-18 at 64 px, loop / bare loop", resnet, 1.05, 5)
    peak_memory()

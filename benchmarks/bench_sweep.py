"""64 linear probes (8 learning rates, 4 weight decays, 2 seeds; 20 epochs) whose heads are trained together, on features of
2,624 photographs of solar cells that are kept already:

- over the same command with one value of each. Goal: at most 1.5 times as long.
- the same 64 runs one after another, over it: as one sweep (`sweep.fuse=never hardware.workers=1`), as 64 commands (one is
  timed), and in the time that training itself takes. Goal: at least 25 times as long.

`--model` times what `sweep/fuse.py` reckons with instead: a step of a head alone and of heads together, for several shapes.
"""

import argparse
import csv
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import nn

TLMTL = str(Path(sys.executable).with_name("tlmtl"))
PROBE = ["+experiment=elpv", "strategy=linear_probe", "dataset.augment=none", "model.image_size=224", "train.epochs=20"]
PROBE += ["progress=false"]
MANY = ["optimizer.lr=1e-4,3e-4,1e-3,3e-3,1e-2,3e-2,1e-1,3e-1", "optimizer.weight_decay=0,1e-4,1e-2,1", "seed=0,1"]
ONE = ["optimizer.lr=1e-2", "optimizer.weight_decay=1e-2", "seed=0"]
SHAPES = [(64, 10), (512, 10), (1280, 2), (512, 100), (2048, 100), (2048, 1000)]  # features, outputs


def command(cache: str, *words: str) -> tuple[float, list[dict[str, str]]]:
    """Seconds of the whole command, and its rows."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        subprocess.run(
            [TLMTL, "train", *PROBE, *words, f"output.cache={cache}"], cwd=folder, check=True, capture_output=True
        )
        taken = time.perf_counter() - began
        (found,) = (path for path in Path(folder).glob("outputs/*/*/results.csv") if not path.parent.is_symlink())
        with found.open() as file:
            return taken, list(csv.DictReader(file))


def told(name: str, ratios: list[float], goal: str) -> None:
    print(f"{name}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), goal {goal}", flush=True)


def sweeps(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as cache:
        command(cache)  # computes the features
        one, many, single, alone = [], [], [], []
        rows: list[dict[str, str]] = []
        for _ in range(rounds):
            one.append(command(cache, "-m", *ONE)[0])
            taken, rows = command(cache, "-m", *MANY)
            many.append(taken)
            single.append(command(cache, *ONE)[0])
            print(f"one {one[-1]:.1f} s, 64 together {many[-1]:.1f} s, one without -m {single[-1]:.1f} s", flush=True)
        assert {row["fused_with"] for row in rows} == {"64"}
        taken, apart = command(cache, "-m", *MANY, "sweep.fuse=never", "hardware.workers=1")
        alone.append(taken)
    print(f"64 one after another in one sweep {taken:.1f} s")
    told("64 together over one", [a / b for a, b in zip(many, one, strict=True)], "at most 1.5")
    told("64 in one sweep, one after another, over together", [taken / a for a in many], "at least 25")
    told(
        "64 commands, one after another, over together",
        [64 * a / b for a, b in zip(single, many, strict=True)],
        "at least 25",
    )
    spent = [sum(float(row["train_seconds"]) + float(row["eval_seconds"]) for row in found) for found in (apart, rows)]
    print(
        f"training and evaluation: {spent[0]:.1f} s one after another, {spent[1]:.1f} s together: {spent[0] / spent[1]:.1f}"
    )
    best = max(
        abs(float(a["test/loss"]) - float(b["test/loss"])) for a, b in zip(by_hash(apart), by_hash(rows), strict=True)
    )
    print(f"largest difference of a test loss: {best:.1e}")


def by_hash(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return sorted(rows, key=lambda row: row["config_hash"])


def member(size: int, outputs: int, seed: int, steps: int, features: torch.Tensor):
    from tlmtl.activations import Activations
    from tlmtl.bank.member import Member, head_alone
    from tlmtl.data.images import ArrayImages
    from tlmtl.data.streams import Stream, plan
    from tlmtl.models.encoder import Encoder
    from tlmtl.models.heads import LinearHead
    from tlmtl.optim import Groups, OneCycle, Units
    from tlmtl.preprocess import Preprocess
    from tlmtl.sharing.hard import HardSharing
    from tlmtl.strategies.rules import match, parse_rules
    from tlmtl.tasks.classification import Classification
    from tlmtl.training import Setup, State, Watch
    from tlmtl.weighting.static import Sum

    n = len(features)
    task = Classification("t", [str(i) for i in range(outputs)], ["accuracy"])
    targets, mask = task.encode(np.arange(n) % outputs)
    encoder = Encoder(nn.Flatten(), size, Preprocess(2, None, (0.5,), (0.5,)), [])
    model = HardSharing(encoder, {"t": LinearHead(size, outputs)})
    images, where = ArrayImages(np.zeros((n, 1, 2, 2), dtype=np.uint8)), torch.arange(n)
    stream = Stream("train", images, where, {"t": targets}, {"t": mask}, encoder.preprocess)
    stream = stream.as_activations(lambda at, _: Activations(features[at]), True)
    units = Units(-(-n // 32), n, steps)
    groups = Groups(
        model,
        match(parse_rules([{"params": "*"}]), [name for name, _ in model.named_parameters()]),
        OneCycle(),
        units,
        [],
    )
    groups.optimizer(torch.optim.AdamW, lr=1e-3 * (1 + seed))
    setup = Setup(
        model=model, tasks={"t": task}, streams={"target": stream}, validation={"target": stream},
        plan=lambda epoch: plan({"target": n}, 32, 0, epoch), weighting=Sum(tasks={"t": task}), terms={}, groups=groups,
        optimizer=groups.made, total=steps, steps_per_epoch=units.steps_per_epoch, evaluate_every=10**9,
        checkpoint_every=10**9, seed=0, autocast=nullcontext, device=torch.device("cpu"),
    )  # fmt: skip
    return setup, Member(head_alone(setup), State(), Watch(), draws=0)


def model(rounds: int) -> None:
    """Milliseconds of a step beside its last evaluation: `Watch` sees the time of training alone."""
    from tlmtl.bank.fit import fit_together
    from tlmtl.loop import fit
    from tlmtl.sweep import fuse
    from tlmtl.training import State, Watch

    print("ms of a step           alone      8 together    64 together    reckoned with: alone, 8, 64")
    for size, outputs in SHAPES:
        features, found = torch.randn(1600, size), {}
        for count in (1, 8, 64):
            steps, spent = max(10, 400 // (1 + size * outputs * count // 10**6)), []
            for _ in range(rounds):
                made = [member(size, outputs, i, steps, features) for i in range(count)]
                if count == 1:
                    state = State()
                    fit(made[0][0], state, Watch())
                    spent.append(1e3 * state.seconds["train"] / steps)
                else:
                    fit_together([one for _, one in made])
                    spent.append(1e3 * sum(one.state.seconds["train"] for _, one in made) / steps)
            found[count] = spent
        reckoned = [1e3 * fuse.step_seconds(count, size, outputs, 32) for count in found]
        print(
            f"{size:5} x {outputs:4}: " + "".join(f"{statistics.median(f):9.2f} ({min(f):.2f})" for f in found.values())
            + "      " + ", ".join(f"{one:.2f}" for one in reckoned), flush=True,
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", action="store_true", help="time steps of heads alone and together")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    (model if given.model else sweeps)(given.rounds)


if __name__ == "__main__":
    main()

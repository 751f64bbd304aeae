"""What a step costs with each weighting, over the same step with `weighting=sum`: a small CNN, 64 images of 16 by 16 pixels, K
linear heads of 10 classes, AdamW, one thread. Steps of both alternate; the median ratio of several rounds is printed.

Goals: uncertainty, dwa, rlw and gls at most 1.1; famo (which looks at each batch twice) 1.4; gradient aggregators at the level
of features 1.3 for 8 tasks and 2 for 40 (cagrad 1.5; nash_mtl and gradvac as they come); at the level of parameters no slower
than TorchJD called directly; separate models of K tasks at most K times a single task; memory of a step at the features of 40
tasks at most 1.5 times that of the sum.

`bench_weightings.py NAME...` measures those weightings alone.
"""

import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from omegaconf import OmegaConf

from tlmtl.config import build
from tlmtl.models.heads import LinearHead
from tlmtl.models.small_cnn import small_cnn
from tlmtl.sharing.base import Sharing
from tlmtl.sharing.hard import HardSharing
from tlmtl.sharing.separate import Separate
from tlmtl.tasks.classification import Classification

PRESETS = Path(__file__).parent.parent / "conf" / "weighting"
SCALAR = {
    "static": 1.1,
    "uncertainty": 1.1,
    "dwa": 1.1,
    "rlw": 1.1,
    "gls": 1.1,
    "stch": 1.1,
    "imtl_l": 1.1,
    "famo": 1.4,
}
AS_THEY_COME = ("nash_mtl", "gradvac")
BATCH = 64


class Training:
    """A model, its tasks, a weighting and one batch."""

    def __init__(
        self, weighting: str, tasks: int, level: str = "loss", sharing: Callable[..., Sharing] = HardSharing
    ) -> None:
        torch.manual_seed(0)
        encoder = small_cnn()
        names = [f"task{i}" for i in range(tasks)]
        self.model = sharing(encoder, {name: LinearHead(encoder.feature_size, 10) for name in names})
        self.tasks = {name: Classification(name, [str(i) for i in range(10)], ["accuracy"]) for name in names}
        node = OmegaConf.merge(OmegaConf.load(PRESETS / f"{weighting}.yaml"), {"level": level})
        self.weighting = build(node, "weighting", tasks=self.tasks, steps_per_epoch=10)
        self.shared = list(self.model.backbone.parameters())
        self.optimizer = torch.optim.AdamW([*self.model.parameters(), *self.weighting.parameters()], 1e-3)
        self.input = torch.randn(BATCH, 1, 16, 16)
        self.targets = {name: torch.randint(0, 10, (BATCH,)) for name in names}
        self.mask = torch.ones(BATCH, dtype=torch.bool)

    def losses(self) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        output = self.model(self.input, list(self.tasks))
        found = {n: task.loss(output.heads[n], self.targets[n], self.mask) for n, task in self.tasks.items()}
        return output.features, found

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.weighting.begin_step()
        features, losses = self.losses()
        self.weighting.backward(losses, None, self.shared, features)
        self.optimizer.step()
        if self.weighting.looks_again:
            with torch.no_grad():
                self.weighting.after_step(self.losses()[1])

    def step_of_torchjd(self) -> None:
        """The same step at the level of parameters, as TorchJD's documentation has it."""
        from torchjd.autojac import jac_to_grad, mtl_backward

        self.optimizer.zero_grad(set_to_none=True)
        features, losses = self.losses()
        mtl_backward(list(losses.values()), features=features, parallel_chunk_size=1)
        jac_to_grad(self.shared, self.weighting._aggregator(len(losses)))
        self.optimizer.step()


def ratio(first: Callable[[], None], second: Callable[[], None], steps: int = 12, rounds: int = 5) -> list[float]:
    """Of the median times of a step, for each round; the steps alternate."""
    found = []
    for number in range(rounds + 1):  # the first is a warm-up
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(steps if number else 3):
            for step, taken in zip((first, second), times, strict=True):
                began = time.perf_counter()
                step()
                taken.append(time.perf_counter() - began)
        if number:
            found.append(statistics.median(times[0]) / statistics.median(times[1]))
    return found


def show(what: str, ratios: list[float], goal: float | None) -> None:
    middle = statistics.median(ratios)
    told = "as it comes" if goal is None else f"goal: at most {goal}{'' if middle <= goal else ', MISSED'}"
    print(f"{what}: {middle:.2f} (from {min(ratios):.2f} to {max(ratios):.2f}; {told})", flush=True)


def memory(weighting: str, level: str) -> float:
    """Megabytes that some steps of 40 tasks take above what was there before them, in a process of its own."""
    command = [sys.executable, __file__, "--memory", weighting, level]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_memory(weighting: str, level: str) -> None:
    training = Training(weighting, 40, level)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    for _ in range(5):
        training.step()
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(int(peak.split()[1]) / 1024 - before / 2**20)


def main(names: list[str]) -> None:
    aggregators = [n for n in names if "aggregator" in (node := OmegaConf.load(PRESETS / f"{n}.yaml")) and node]
    for tasks in (2, 8, 40):
        base = Training("sum", tasks)
        for name in names:
            level = "features" if name in aggregators or name == "gradnorm" else "loss"
            goal = SCALAR.get(name, {2: 1.3, 8: 1.3, 40: 2.0}[tasks])
            if name == "cagrad":
                goal = 1.5
            what = f"K={tasks} {name}" + ("" if level == "loss" else " at the features")
            show(what, ratio(Training(name, tasks, level).step, base.step), None if name in AS_THEY_COME else goal)
    alone = Training("sum", 1)
    for tasks in (2, 8):
        each = [one / tasks for one in ratio(Training("sum", tasks, sharing=Separate).step, alone.step)]
        show(f"K={tasks} separate models (sharing=none), over K times a single task", each, 1.0)
    for tasks in (2, 8):
        for name in [name for name in aggregators if name not in AS_THEY_COME]:
            ours, theirs = Training(name, tasks, "parameters"), Training(name, tasks, "parameters")
            found = ratio(ours.step, theirs.step_of_torchjd)
            show(f"K={tasks} {name} at the parameters, over TorchJD called directly", found, 1.05)  # 1, but for noise
    plain = statistics.median(memory("sum", "loss") for _ in range(3))
    for name in aggregators:
        taken = statistics.median(memory(name, "features") for _ in range(3))
        show(f"K=40 {name} at the features, memory (the sum: {plain:.0f} MB)", [taken / plain], 1.5)


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if sys.argv[1:2] == ["--memory"]:
        print_memory(*sys.argv[2:])
    else:
        main(sys.argv[1:] or sorted(path.stem for path in PRESETS.glob("*.yaml") if path.stem != "sum"))

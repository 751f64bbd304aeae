"""Method II at 128 px, batches of 32: what a step takes with `hardware=fast`, against loops written by hand.

`tutorial` is the loop of every tutorial: 32 bits, the default memory format, one learning rate. `best` is the same in the
format that tlmtl chose, with the groups and the schedule that tlmtl has. All take the same batches of the same images in
memory, from the same parameters, without evaluation, in turn, several times; the median ratio is printed, with the lowest
and the highest. Goals: 2 for ResNet-18 and 1.3 for EfficientNet-Lite0 over the tutorial loop, 0.97 of the best one's speed.

    python benchmarks/bench_finetune.py [STEPS] [TIMES]
"""

import contextlib
import statistics
import sys
import tempfile
import time

import torch
from torch.nn import functional as F

import tlmtl
from tlmtl import execution, timing
from tlmtl.assemble import assemble, setup
from tlmtl.checkpoint import seed_everything
from tlmtl.hardware import MEMORY_FORMATS
from tlmtl.loop import fit
from tlmtl.training import Setup, State, Watch
from tlmtl.trial import Format, copied

LR, BATCH = 1e-3, 32
MODELS = {
    "ResNet-18": (["model=resnet18"], 2.0),
    "EfficientNet-Lite0": (["model=timm", "model.name=tf_efficientnet_lite0"], 1.3),
}


class Never(Watch):
    """Sees nothing."""


def prepared(words: list[str], steps: int, cache: str) -> tuple[Setup, Format, str]:
    """The set-up of a run in the formats that tlmtl chose, as if the run was long enough for all of them to be timed."""
    usual = ["strategy=from_scratch", "dataset.labels_per_class=50", "model.image_size=128", "hardware=fast"]
    more = ["hardware.compile=false", f"train.batch_size={BATCH}", f"train.epochs={steps}st", f"output.cache={cache}"]
    cfg = tlmtl.compose([*usual, *more, *words])
    parts = assemble(cfg)
    usual = execution.machine(parts)
    made = setup(parts, usual)
    for stream in made.streams.values():
        stream.ready()
    found = execution.timed(parts, usual, made)
    machine = execution.machine(parts, vars(found.chosen))
    made = execution.on(made, machine)
    made.evaluate_every = made.checkpoint_every = made.total + 1
    made.until = made.total - 1  # the last step would evaluate
    return made, found.chosen, found.line


def ours(made: Setup) -> float:
    made = copied(made, made.until or made.total)
    seed_everything(0)
    state = State()
    fit(made, state, Never())
    return state.seconds["train"] / state.step


def by_hand(made: Setup, format: Format, tutorial: bool) -> float:
    """The same steps in a loop of one's own."""
    made = copied(made, made.until or made.total)
    layout = MEMORY_FORMATS[format.memory_format]
    model, stream = made.model.to(memory_format=layout), made.streams["target"]
    backbone, head = model.backbone, model.heads["digit"]
    labels, norm = stream.targets["digit"], stream.normalize
    groups = [{"params": list(model.parameters()), "weight_decay": 0.01}]
    if not tutorial:
        groups = [
            {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.01},
            {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ]
    optimizer = torch.optim.AdamW(groups, lr=LR)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=made.total)
    half = format.precision == "bf16-mixed"
    model.train()
    seed_everything(0)
    step, end, began = 0, made.until or made.total, time.perf_counter()
    while step < end:
        for draw in made.plan(step // made.steps_per_epoch):
            at = draw["target"]
            inputs = norm(stream.kept[at]).contiguous(memory_format=layout)
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext():
                outputs = head(backbone(inputs))
            loss = F.cross_entropy(outputs.float(), labels[at])
            loss.item()  # a loop that shows its loss reads it
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            if step == end:
                break
    return (time.perf_counter() - began) / step


def compare(name: str, words: list[str], goal: float, steps: int, times: int, cache: str) -> None:
    made, format, line = prepared(words, steps, cache)
    print(f"{name}: {line}", flush=True)
    plain = Format("32-true", "contiguous")
    faster, close = [], []
    for number in range(times + 1):  # the first is a warm-up
        a, best, tutorial = ours(made), by_hand(made, format, False), by_hand(made, plain, True)
        if number:
            faster.append(tutorial / a)
            close.append(best / a)
    for ratios, what, least in ((faster, "tutorial loop", goal), (close, "best loop by hand", 0.97)):
        middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
        print(
            f"  speed over the {what}: {middle:.2f} (from {low:.2f} to {high:.2f}; goal: at least {least})", flush=True
        )
    print(
        f"  last: {a * 1e3:.0f} ms a step, {best * 1e3:.0f} by hand, {tutorial * 1e3:.0f} in the tutorial loop",
        flush=True,
    )


if __name__ == "__main__":
    steps, times = (int(word) for word in (sys.argv[1:] + ["20", "5"][len(sys.argv) - 1 :])[:2])
    timing.LEAST, timing.FEWEST, timing.SHARE = 0.0, 1, float("inf")
    with tempfile.TemporaryDirectory() as folder:
        for one, (words, goal) in MODELS.items():
            compare(one, words, goal, steps, times, folder)

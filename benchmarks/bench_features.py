"""Features of a frozen backbone over the plain loop of a tutorial: 32 bits, PyTorch's own layout, batches of 32.

- engines: images a second through EfficientNet-Lite0 and ResNet-18 at 224 px, by the engine that `features.engine=auto` takes,
  with images in memory; its share of the machine's matrix-multiply peak; what converting costs. Goals: in 32 bits at least 5
  and 1.5 times the plain loop, in bfloat16 10 and 3.
- folder: a run's features of a folder of JPEG files of 500 px, with reading them, converting and keeping the features, over a
  DataLoader with as many workers, torchvision's decoder and the plain loop. Goals: the same.
- predict: 500 grey pictures of 300 px through `tlmtl predict`, EfficientNet-Lite0, by OpenVINO over PyTorch.

Ratios are medians over rounds in which all sides take turns. `--only engines` measures one of the three.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from bench_data import Bare, photographs
from PIL import Image
from torch import nn

from tlmtl.features.cuts import operations
from tlmtl.features.engines import Engines
from tlmtl.features.extract import BATCH
from tlmtl.hardware import PeakMemory

CORES = len(os.sched_getaffinity(0))
ROUNDS = 5
PLAIN = 32  # images in a batch of the plain loop
MODELS = {"EfficientNet-Lite0": ("tf_efficientnet_lite0", (5, 10)), "ResNet-18": ("resnet18", (1.5, 3))}


def peak(dtype: torch.dtype, side: int = 4096) -> float:
    """Floating-point operations a second of a large matrix product."""
    one, other = torch.randn(side, side, dtype=dtype), torch.randn(side, side, dtype=dtype)
    torch.mm(one, other)
    began = time.perf_counter()
    torch.mm(one, other)
    return 2 * side**3 / (time.perf_counter() - began)


def speed(call: Callable[[torch.Tensor], torch.Tensor], pixels: torch.Tensor, images: int) -> float:
    """Images a second."""
    began = time.perf_counter()
    for _ in range(images // len(pixels)):
        call(pixels)
    return images / (time.perf_counter() - began)


def backbone(name: str, **settings: object) -> nn.Module:
    import timm

    torch.manual_seed(0)
    return timm.create_model(name, num_classes=0, **settings).eval()


def engines(name: str, model: str, goals: tuple[float, float], rounds: int) -> None:
    module = backbone(model)
    plain_batch, batch = torch.randn(PLAIN, 3, 224, 224), torch.randn(BATCH, 3, 224, 224)
    fast = backbone(model).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def plain(pixels: torch.Tensor) -> torch.Tensor:
        return module(pixels)

    @torch.inference_mode()
    def ours(pixels: torch.Tensor) -> torch.Tensor:
        return fast(pixels.contiguous(memory_format=torch.channels_last)).float()

    @torch.inference_mode()
    def half(pixels: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return ours(pixels)

    found: dict[str, list[float]] = {}
    converting: dict[str, float] = {}
    sides: dict[str, tuple[Callable, torch.Tensor]] = {"plain": (plain, plain_batch)}
    for precision, call in (("32-true", ours), ("bf16-mixed", half)):
        sides[f"torch {precision}"] = (call, batch)
        held, began = PeakMemory._now("VmRSS") or 0.0, time.perf_counter()
        engine = Engines(fast, batch[:1], "auto", precision, 10**6, call).first(batch)
        took, held = time.perf_counter() - began, (PeakMemory._now("VmRSS") or 0.0) - held
        print(
            f"  {name}, {precision}: {engine.name} in {engine.precision}; converted in {took:.1f} s, holds {held:.0f} MB"
        )
        sides[precision] = (engine, batch)
        converting[precision] = took
    for number in range(rounds + 1):  # the first is a warm-up
        for side, (call, pixels) in sides.items():
            rate = speed(call, pixels, 4 * PLAIN)
            if number:
                found.setdefault(side, []).append(rate)
        for dtype in (torch.float32, torch.bfloat16):
            if number:
                found.setdefault(f"peak {dtype}", []).append(peak(dtype))
    work = operations(module, plain_batch[:1])
    for precision, took in converting.items():
        rates = [statistics.median(found[side]) for side in (f"torch {precision}", precision)]
        images = took / (1 / rates[0] - 1 / rates[1])
        print(f"{name}, {precision}: converting pays from {images:.0f} images, {images * work:.1e} operations, on")
    for side in sides:
        ratios = [one / other for one, other in zip(found[side], found["plain"], strict=True)]
        dtype = torch.float32 if side in ("plain", "torch 32-true", "32-true") else torch.bfloat16
        shares = [rate * work / most for rate, most in zip(found[side], found[f"peak {dtype}"], strict=True)]
        goal = {"32-true": f"; goal: at least {goals[0]}", "bf16-mixed": f"; goal: at least {goals[1]}"}.get(side, "")
        print(
            f"{name}, {side}: {statistics.median(found[side]):.0f} images/s, {statistics.median(ratios):.2f} times plain "
            f"({min(ratios):.2f} to {max(ratios):.2f}{goal}); {statistics.median(shares):.0%} of the peak of "
            f"{statistics.median(found[f'peak {dtype}']) / 1e9:.0f} GFLOP/s"
        )


def folder(name: str, model: str, goals: tuple[float, float], images: int, rounds: int, top: Path) -> None:
    """Files to features: the plain loop on some of them, a run of ours on all."""
    import tlmtl
    from tlmtl import hardware
    from tlmtl.assemble import assemble, setup
    from tlmtl.features.frozen import Frozen

    paths = photographs(top / "jpeg", 100)
    for i in range(100, images):  # moved, so that no two are alike: copies would be computed once
        with Image.open(paths[i % 100]) as image:
            moved = np.roll(np.asarray(image), 8 * (i // 100), axis=1)
        paths.append(str(Path(paths[i % 2]).parent / f"{i}.jpg"))
        Image.fromarray(moved).save(paths[-1], quality=85)
    module = backbone(model)

    def plain() -> float:
        count, few = 0, Bare(paths[: images // 4])
        began = time.perf_counter()
        with torch.no_grad():
            for batch in torch.utils.data.DataLoader(few, batch_size=PLAIN, num_workers=CORES):
                module((batch.float() / 255 - 0.5) / 0.5)
                count += len(batch)
        return count / (time.perf_counter() - began)

    def ours(precision: str) -> float:
        with tempfile.TemporaryDirectory(dir=top) as cache:
            cfg = tlmtl.compose([
                "dataset=folder", f"dataset.root={top / 'jpeg'}", "model=timm", f"model.name={model}", "model.image_size=224",
                "strategy=linear_probe", "strategy.init=random", "source=none", "hardware.images_mb=0",
                f"hardware.precision={precision}", f"output.cache={cache}", "features.cache=always", "progress=false",
            ])  # fmt: skip
            parts = assemble(cfg)
            machine = hardware.machine(cfg.hardware, parts.encoder.threads, parts.encoder.memory_format)
            made = setup(parts, machine)
            frozen = Frozen(parts, made, machine, Path(cache))
            began, count = time.perf_counter(), 0
            for phase in frozen.phases(0):
                for stream in (*phase.streams.values(), *phase.validation.values()):
                    stream.ready()
                    count += len(stream)
            return count / (time.perf_counter() - began)

    sides = {"32-true": lambda: ours("32-true"), "bf16-mixed": lambda: ours("bf16-mixed")}
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for side, run in {"plain": plain, **sides}.items():
            found.setdefault(side, []).append(run())
    for side, goal in zip(sides, goals, strict=True):
        ratios = [one / other for one, other in zip(found[side], found["plain"], strict=True)]
        print(
            f"{name}, files to features, {side}: {statistics.median(found[side]):.0f} images/s, "
            f"{statistics.median(ratios):.2f} times plain ({min(ratios):.2f} to {max(ratios):.2f}; goal: at least {goal}); "
            f"plain {statistics.median(found['plain']):.0f} images/s"
        )


def predict(top: Path, rounds: int) -> None:
    from tlmtl.models.heads import LinearHead
    from tlmtl.models.timm import timm_model
    from tlmtl.predict.model import Trained
    from tlmtl.predict.run import Told, predictions
    from tlmtl.sharing.hard import HardSharing
    from tlmtl.tasks.classification import Classification

    random, paths = np.random.default_rng(0), []
    for i in range(500):
        cells = np.kron(random.integers(0, 255, (15, 15)), np.ones((20, 20))) + random.normal(0, 8, (300, 300))
        paths.append(str(top / f"{i}.png"))
        Image.fromarray(cells.clip(0, 255).astype(np.uint8)).save(paths[-1])
    encoder = timm_model("tf_efficientnet_lite0", 224)
    task = Classification("defect", ["no", "yes"], ["accuracy"])
    model = HardSharing(encoder, {"defect": LinearHead(encoder.feature_size, 2)}).eval()
    trained = Trained(model, {"defect": task}, encoder.preprocess, 1, (224, 224), {"": ["defect"]})
    found: dict[str, list[float]] = {"torch": [], "openvino": []}
    for _ in range(rounds):
        for name, seconds in found.items():
            began = time.perf_counter()
            count = sum(1 for _ in predictions(trained, [(p, p) for p in paths], 1, 32, Told(), name))
            seconds.append(time.perf_counter() - began)
            assert count == 500
    ratios = [one / other for one, other in zip(found["torch"], found["openvino"], strict=True)]
    before, after = (statistics.median(found[name]) for name in found)
    print(
        f"predict, 500 pictures: {before:.1f} s by PyTorch, {after:.1f} s by OpenVINO, converting included: "
        f"{statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=("engines", "folder", "predict"))
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    torch.set_num_threads(CORES)
    for name, (model, goals) in MODELS.items():
        if options.only in (None, "engines"):
            engines(name, model, goals, options.rounds)
        if options.only in (None, "folder"):
            with tempfile.TemporaryDirectory() as made:
                folder(name, model, goals, options.images, min(3, options.rounds), Path(made))
    if options.only in (None, "predict"):
        with tempfile.TemporaryDirectory() as made:
            predict(Path(made), options.rounds)

"""Does an exported file say what the run's model says? It is loaded again and asked about images."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tlmtl.export.formats import ExportError
from tlmtl.export.served import said
from tlmtl.models.saved import read_model
from tlmtl.predict.model import Trained, rebuilt
from tlmtl.tasks.base import Task
from tlmtl.tasks.classification import Classification
from tlmtl.tasks.multilabel import Multilabel
from tlmtl.tasks.regression import Regression

# By format, the largest difference that counts as agreement (see `difference`). A graph that PyTorch runs has the same
# operations and gives the same bits, on machines known so far; ONNX has others, with parameters of several layers multiplied.
TOLERANCE = {"safetensors": 0.0, "pt2": 1e-6, "onnx": 1e-4}
FLOOR = 0.01  # smaller probabilities and errors are measured by this


@dataclass
class Agreement:
    """How near an exported model comes to the run's.

    Arguments:
        difference: by task, the largest.
        labels: how many labels were compared, and how many of them differ.
    """

    difference: dict[str, float]
    labels: tuple[int, int]


def agreement(path: Path, form: str, trained: Trained, tasks: Sequence[str], batches: Sequence[Tensor],
              allow: list[str]) -> Agreement:  # fmt: skip
    """Ask the file and the run's model about the same images.

    Arguments:
        path: of the exported file, `model.` and the format's suffix.
        batches: uint8 (n, C, H, W) each.

    Raises ExportError where the file cannot be loaded again or says something else.
    """
    expected = [said(trained, batch, tasks) for batch in batches]
    if form == "safetensors":
        again = rebuilt(*read_model(path.parent), path, allow)
        found = [said(again, batch, tasks) for batch in batches]
    else:
        found = _elsewhere(path, batches)
        if set(found[0]) != set(tasks):
            raise ExportError(
                f"The exported model gives {', '.join(found[0])} where it should give {', '.join(tasks)}."
            )
    difference: dict[str, float] = {}
    labels = differ = 0
    for name in tasks:
        mine, theirs = (torch.cat([one[name] for one in many]) for many in (expected, found))
        if mine.shape != theirs.shape:
            raise ExportError(
                f"The exported model gives {tuple(theirs.shape)} for '{name}' where the run's gives {tuple(mine.shape)}."
            )
        difference[name] = _difference(trained.tasks[name], mine.double(), theirs.double())
        one, other = _labels(trained.tasks[name], mine), _labels(trained.tasks[name], theirs)
        labels, differ = labels + one.numel(), differ + int((one != other).sum())
    worst = max(difference, key=lambda name: difference[name])
    if not difference[worst] <= TOLERANCE[form]:
        raise ExportError(
            f"The exported model does not say what the run's does: they differ by {difference[worst]:.1e} about '{worst}' "
            f"(allowed: {TOLERANCE[form]:g}), and in {differ} of {labels} labels. Nothing was written."
        )
    return Agreement(difference, (labels, differ))


def _difference(task: Task, expected: Tensor, found: Tensor) -> float:
    """The largest difference: of a probability or an error relative to itself (`FLOOR` at least), of a value relative to its
    distance from the training targets' mean (their standard deviation at least). Infinite where one is not a number."""
    if isinstance(task, Regression):
        scale = (expected - task.mean).abs().clamp(min=task.std)
    else:
        scale = expected.abs().clamp(min=FLOOR)
    return float(((found - expected).abs() / scale).nan_to_num(nan=torch.inf).max())


def _labels(task: Task, said: Tensor) -> Tensor:
    if isinstance(task, Classification):
        return said.argmax(1)
    return said > 0.5 if isinstance(task, Multilabel) else said.new_zeros(0)


def _elsewhere(path: Path, batches: Sequence[Tensor]) -> list[dict[str, Tensor]]:
    """By batch and output, what a process of its own, which knows nothing of tlmtl, makes of the file."""
    images, out = path.with_name("images.npz"), path.with_name("said.npz")
    np.savez(images, allow_pickle=False, **{str(i): batch.numpy() for i, batch in enumerate(batches)})
    done = subprocess.run(
        [sys.executable, "-P", str(Path(__file__).with_name("again.py")), str(path), str(images), str(out)],
        env={**os.environ, "TLMTL_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode or not out.is_file():
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ExportError(f"The exported file cannot be loaded again: {last}")
    with np.load(out) as file:
        names = [str(name) for name in file["names"]]
        found = [{n: torch.from_numpy(file[f"{i}/{j}"]) for j, n in enumerate(names)} for i in range(len(batches))]
    return found

"""From a batch to its losses: what a step of the loop computes before anything is updated."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from tlmtl.data.streams import Batch
from tlmtl.models.encoder import Output, encode
from tlmtl.terms.base import Step, layers_of
from tlmtl.training import Setup, State


def pieces_of(setup: Setup, batch: Batch) -> list[Batch]:
    """A batch as the smaller batches that are worked on one after another."""
    parts = {name: part.chunks(setup.accumulate) for name, part in batch.items()}
    most = max(map(len, parts.values()))
    return [{name: chunks[i] for name, chunks in parts.items() if i < len(chunks)} for i in range(most)]


def forward(setup: Setup, piece: Batch, state: State) -> dict[str, Output]:
    """By stream, what the model gives for the tasks of that stream that still train."""
    run = setup.model if setup.forward is None else setup.forward
    layers = layers_of(list(setup.terms.values()))
    active = {name: setup.branches.active(setup.streams[name].mask, state.stopped) for name in piece}
    found = {}
    for name, part in piece.items():
        if active[name]:
            with setup.autocast(), setup.model.on(setup.streams[name].part_name):
                found[name] = run(part.input, active[name], layers)
    return found


def losses_of(setup: Setup, batch: Batch, piece: Batch, outputs: Mapping[str, Output]) -> dict[str, Tensor]:
    """Task losses of one piece of a batch, each scaled by its share of the labels, so that the pieces sum to the batch's."""
    losses = {}
    for name, output in outputs.items():
        part, whole = piece[name], batch[name]
        for task, target in part.targets.items():
            if task in output.heads:
                loss = setup.tasks[task].training_loss(output.heads[task], target, part.mask[task])
                losses[task] = loss if part is whole else loss * (part.labels[task] / whole.labels[task])
    return losses


def terms_of(setup: Setup, batch: Batch, piece: Batch, outputs: Mapping[str, Output], number: int) -> dict[str, Tensor]:
    """The terms on one piece of a batch, each scaled by its share of the examples."""
    if not setup.terms or not outputs:
        return {}
    theirs = {}
    if setup.source_model is not None:
        with setup.autocast(), torch.no_grad():
            layers = layers_of(list(setup.terms.values()))
            theirs = {name: encode(setup.source_model, piece[name].input, layers) for name in outputs}
    step = Step(setup.model, piece, outputs, theirs, number, setup.total)
    share = sum(len(part.index) for part in piece.values()) / sum(len(part.index) for part in batch.values())
    return {name: term(step) * share for name, term in setup.terms.items()}


@torch.no_grad()
def again(setup: Setup, batch: Batch, pieces: list[Batch], state: State) -> dict[str, Tensor]:
    """The losses of the same batch after the step. Batch norm sees the batch a second time, too."""
    found: dict[str, Tensor] = {}
    for piece in pieces:
        for task, loss in losses_of(setup, batch, piece, forward(setup, piece, state)).items():
            found[task] = found[task] + loss if task in found else loss
    return found


def total(terms: Collection[Tensor]) -> Tensor | None:
    """The sum of terms that anything could be trained by, or None of none: a term may have nothing to say of a batch."""
    trained = [term for term in terms if term.requires_grad]
    return torch.stack(trained).sum() if trained else None

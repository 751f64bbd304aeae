"""A small model with four tasks, and batches for it, for the tests of terms."""

import torch

from tlmtl.data.streams import Part
from tlmtl.models.encoder import encode
from tlmtl.models.heads import LinearHead
from tlmtl.models.small_cnn import small_cnn
from tlmtl.sharing.hard import HardSharing
from tlmtl.tasks.classification import Classification
from tlmtl.tasks.multilabel import Multilabel
from tlmtl.tasks.regression import Regression
from tlmtl.terms.base import Context, Step, layers_of

torch.set_num_threads(1)

TASKS = {
    "type": Classification("type", ["a", "b", "c"], ["accuracy"]),
    "other": Classification("other", ["x", "y"], ["accuracy"]),
    "size": Regression("size", 0.0, 1.0, ["mae"]),
    "marks": Multilabel("marks", ["u", "v"], ["accuracy"]),
}


def context(sharing=HardSharing, tasks=TASKS, width=4):
    torch.manual_seed(0)
    encoder = small_cnn(width=width)
    heads = {name: LinearHead(encoder.feature_size, task.outputs) for name, task in tasks.items()}
    return Context(sharing(encoder=encoder, heads=heads), encoder, tasks, {}, True)


def part(n=8, tasks=TASKS, seed=1, missing=()):
    """`n` images with labels for `tasks`, without those at the positions `missing`."""
    generator = torch.Generator().manual_seed(seed)
    targets = {
        "type": torch.randint(3, (n,), generator=generator),
        "other": torch.randint(2, (n,), generator=generator),
        "size": torch.randn(n, generator=generator),
        "marks": torch.randint(2, (n, 2), generator=generator).float(),
    }
    there = torch.ones(n, dtype=torch.bool)
    there[list(missing)] = False
    images = torch.randn(n, 1, 16, 16, generator=generator)
    return Part(images, {t: targets[t] for t in tasks}, dict.fromkeys(tasks, there), torch.arange(n))


def step(model, parts, terms, source=None):
    layers = layers_of(terms)
    outputs = {s: model(one.input, list(one.targets), layers) for s, one in parts.items()}
    theirs = {s: encode(source, one.input, layers) for s, one in parts.items()} if source is not None else {}
    return Step(model, parts, outputs, theirs, 0, 1)


def ready(term, found):
    torch.manual_seed(5)
    term.setup(found)
    return term

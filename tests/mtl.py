"""What the tests of weightings share: every preset, tasks of all kinds, and a model small enough to check by hand."""

from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional as F

from tlmtl.config import build
from tlmtl.tasks.classification import Classification
from tlmtl.tasks.regression import Regression

torch.set_num_threads(1)

FILES = {path.stem: path for path in sorted((Path(__file__).parent.parent / "conf" / "weighting").glob("*.yaml"))}
NODES = {name: OmegaConf.load(path) for name, path in FILES.items()}
AGGREGATORS = [name for name, node in NODES.items() if "aggregator" in node]
# Each preset at each level that it looks at.
CASES = [(name, level) for name in [*AGGREGATORS, "gradnorm"] for level in ("features", "parameters")]
CASES += [(name, "loss") for name in NODES if name not in [*AGGREGATORS, "gradnorm"]]


def tasks_named(names="abc"):
    """a and c are classifications, b is a regression."""
    made = {name: Classification(name, ["x", "y", "z"], ["accuracy"]) for name in names}
    return {name: Regression(name, 0.0, 1.0, ["mae"]) if name == "b" else task for name, task in made.items()}


def weighting(name, level="parameters", names="abc", **settings):
    node = OmegaConf.merge(NODES[name], {"level": level, **settings})
    return build(node, "weighting", tasks=tasks_named(names), steps_per_epoch=2)


class Tiny(nn.Module):
    """6 numbers -> 4 features -> a head for each task; a task's head depends on its name alone."""

    def __init__(self, names="abc"):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))
        self.heads = nn.ModuleDict()
        for name in names:
            torch.manual_seed(ord(name))
            self.heads[name] = nn.Linear(4, 1 if name == "b" else 3)

    @property
    def shared(self):
        return [p for p in self.encoder.parameters() if p.requires_grad]

    def forward(self, x):
        features = self.encoder(x)
        return features, {name: head(features) for name, head in self.heads.items()}


def batch(number=0, size=8):
    """Inputs (n, 6) and targets by task."""
    generator = torch.Generator().manual_seed(100 + number)
    x = torch.randn(size, 6, generator=generator)
    y = {name: torch.randint(0, 3, (size,), generator=generator) for name in "acd"}
    return x, {**y, "b": x.sum(1) + 2}


def losses_of(model, x, y, share=1.0, without=()):
    """Features, and the mean losses of the tasks that are there, times `share`."""
    features, outputs = model(x)
    found = {}
    for name, output in outputs.items():
        if name not in without:
            output = output.float()
            mean = F.mse_loss(output.squeeze(-1), y[name]) if name == "b" else F.cross_entropy(output, y[name])
            found[name] = share * mean
    return features, found


def gradients(module):
    """Copies of `.grad` by parameter name, and None where there is none."""
    return {name: None if p.grad is None else p.grad.clone() for name, p in module.named_parameters()}


def step(made, model, optimizer, number=0, without=(), pieces=1):
    """One step as the loop does it. Returns the weights of the last piece."""
    x, y = batch(number)
    optimizer.zero_grad(set_to_none=True)
    made.begin_step()
    for part in torch.arange(len(x)).chunk(pieces):
        features, found = losses_of(model, x[part], {k: v[part] for k, v in y.items()}, len(part) / len(x), without)
        weights = made.backward(found, None, model.shared, features)
    optimizer.step()
    if made.looks_again:
        with torch.no_grad():
            made.after_step(losses_of(model, x, y, without=without)[1])
    return weights


def optimizer_of(made, model, lr=0.1):
    return torch.optim.SGD([*model.parameters(), *made.parameters()], lr=lr, momentum=0.9)

"""What weightings at level=parameters look at: what several tasks share, and nothing that serves one task alone."""

from dataclasses import replace

import pytest
import torch
from sharings import OUTPUTS

import tlmtl
from tlmtl.assemble import assemble, setup
from tlmtl.forward import forward, losses_of
from tlmtl.hardware import machine
from tlmtl.training import State
from tlmtl.weighting.gradnorm import GradNorm
from tlmtl.weighting.static import Sum
from tlmtl.weighting.torchjd import TorchJD

torch.set_num_threads(1)
SMALL = [
    "+experiment=two_digits",
    "dataset.train=200",
    "dataset.labels_per_class=3",
    "dataset.val=10",
    "dataset.test=10",
    "model.width=4",
    "tasks=all",
]
SMALL += ["strategy=from_scratch", "source=none", "weighting.level=parameters"]
# Parts of the names of what serves one task alone, beside its head; None where every parameter below the heads is shared.
OWN = {
    "mmoe": "shared.gates.{task}.",
    "ple": "shared.1.own.{task}.0.",
    "mtan": "shared.{task}.1.",
    "cross_stitch": None,
    "hard": None,
}


def made(sharing, weighting):
    """A run's objects, heads redrawn so that gradients below them are not near zero, and its first batch."""
    cfg = tlmtl.compose([*SMALL, f"sharing={sharing}", f"weighting={weighting}"])
    run = setup(assemble(cfg), machine(cfg.hardware, 1))
    torch.manual_seed(0)
    for head in run.model.heads.children():
        for parameter in head.parameters():
            torch.nn.init.normal_(parameter)
    run.groups.begin(0, first=True)
    return run, {name: stream.part(torch.arange(16)) for name, stream in run.streams.items()}


def losses(run, batch):
    """By task; batch norms normalise by the batch, whose losses are the same at every pass."""
    outputs = forward(run, batch, State())
    return losses_of(run, batch, batch, outputs)


def gradients(run):
    found = {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in run.model.named_parameters()}
    run.model.zero_grad(set_to_none=True)
    return found


def plain(run, batch):
    """By task, the gradient of its loss at every parameter."""
    found = {}
    for task in OUTPUTS:
        losses(run, batch)[task].backward()
        found[task] = gradients(run)
    return found


def weighted(run, batch, weighting):
    """What one backward pass of the weighting leaves at every parameter, and the weights."""
    weighting.begin_step()
    weights = weighting.backward(losses(run, batch), None, run.groups.shared)
    return gradients(run), weights


@pytest.mark.parametrize("sharing", OWN)
def test_gradnorm_looks_where_every_task_has_a_gradient(sharing):
    run, batch = made(sharing, "gradnorm")
    assert isinstance(run.weighting, GradNorm)
    norms = run.weighting._norms(losses(run, batch), run.groups.shared, None)
    assert norms.shape == (3,) and (norms > 1e-4).all()


@pytest.mark.parametrize("sharing", OWN)
def test_what_is_shared_serves_several_tasks_and_all_else_one(sharing):
    run, batch = made(sharing, "mgda")
    shared = {id(p) for p in run.groups.shared}
    by_task = plain(run, batch)
    for name, parameter in run.model.named_parameters():
        serves = [task for task in OUTPUTS if by_task[task][name].any()]
        assert (id(parameter) in shared) == (len(serves) > 1), f"{name} serves {serves}"
    below = [n for n, p in run.model.named_parameters() if id(p) not in shared and not n.startswith("heads.")]
    assert bool(below) == (OWN[sharing] is not None)


@pytest.mark.parametrize("sharing", OWN)
def test_mgda_leaves_what_serves_one_task_the_gradient_of_its_loss(sharing):
    run, batch = made(sharing, "mgda")
    by_task = plain(run, batch)
    found, weights = weighted(run, batch, run.weighting)
    assert sum(weights.values()) == pytest.approx(1, abs=1e-4) and max(weights.values()) < 1
    for task in OUTPUTS:
        own = [n for n in found if n.startswith(f"heads.{task}.")]
        if OWN[sharing] is not None:
            own += [n for n in found if n.startswith(OWN[sharing].format(task=task))]
            assert len(own) > 2
        for name in own:
            assert by_task[task][name].any()
            assert all(not by_task[other][name].any() for other in OUTPUTS if other != task)
            torch.testing.assert_close(found[name], by_task[task][name], msg=name)
    for name, parameter in run.model.named_parameters():
        if any(parameter is one for one in run.groups.shared):
            expected = sum(weights[task] * by_task[task][name] for task in OUTPUTS)
            torch.testing.assert_close(found[name], expected, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("sharing", OWN)
def test_the_sum_of_rows_is_the_plain_sum(sharing):
    """In double: in single precision a kernel below a batch norm differs by 1e-5 with the order of summation alone."""
    run, batch = made(sharing, "mgda")
    run.model.double()
    batch = {name: replace(part, input=part.input.double()) for name, part in batch.items()}
    found, weights = weighted(run, batch, TorchJD("Sum", "parameters", tasks=run.tasks))
    expected, _ = weighted(run, batch, Sum(tasks=run.tasks))
    assert weights == dict.fromkeys(run.tasks, 1.0)
    for name, gradient in expected.items():
        atol = 1e-6 * gradient.abs().max().item()
        torch.testing.assert_close(
            found[name], gradient, rtol=0, atol=atol, msg=lambda said, name=name: f"{name}: {said}"
        )

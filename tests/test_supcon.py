"""The supervised contrastive loss against its formula, and its laws."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from multitask import TASKS, context, part, ready, step

from tlmtl.errors import ConfigError
from tlmtl.terms.supcon import SupCon, contrastive_loss


def by_definition(features, target, temperature):
    """Equation 2 of Khosla et al. 2020, one anchor and one positive after the other."""
    z = [f / f.norm() for f in features]
    n, terms = len(z), []
    for i in range(n):
        positives = [p for p in range(n) if p != i and target[p] == target[i]]
        if positives:
            below = sum(math.exp((z[i] @ z[a]).item() / temperature) for a in range(n) if a != i)
            logs = [math.log(math.exp((z[i] @ z[p]).item() / temperature) / below) for p in positives]
            terms.append(-sum(logs) / len(positives))
    return sum(terms) / len(terms) if terms else 0.0


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 5), st.sampled_from([0.07, 0.1, 1.0]))
@settings(max_examples=40, deadline=None)
def test_the_contrastive_loss_is_equation_2(seed, n, classes, temperature):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, 6, generator=generator, dtype=torch.float64).requires_grad_()
    target = torch.randint(classes, (n,), generator=generator)
    value = contrastive_loss(features, target, temperature)
    assert value.item() == pytest.approx(by_definition(features.detach(), target, temperature), rel=1e-9, abs=1e-12)
    value.backward()
    assert features.grad.isfinite().all()
    lengths = torch.rand(n, 1, generator=generator, dtype=torch.float64) + 0.1  # neither lengths nor the order matter
    order, names = torch.randperm(n, generator=generator), torch.randperm(classes, generator=generator)
    same = contrastive_loss((features.detach() * lengths)[order], names[target][order], temperature)
    assert same.item() == pytest.approx(value.item(), rel=1e-9, abs=1e-12)


def test_the_contrastive_loss_falls_as_classes_come_together():
    target = torch.tensor([0, 0, 1, 1])
    apart = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]])
    together = torch.tensor([[1.0, 0], [1, 0], [-1, 0], [-1, 0]])
    # by hand: anchors see their positive at 10 and the two negatives at -10, or the positive at 0 and negatives at 10, 0
    assert contrastive_loss(together, target, 0.1).item() == pytest.approx(math.log1p(2 * math.exp(-20)), abs=1e-6)
    assert contrastive_loss(apart, target, 0.1).item() == pytest.approx(math.log(2 + math.exp(10)), rel=1e-6)


@pytest.mark.parametrize("classes", [[0, 1, 2], [0], []])
def test_without_two_of_a_class_the_contrastive_loss_is_zero_with_finite_gradients(classes):
    features = torch.randn(len(classes), 4, requires_grad=True)
    value = contrastive_loss(features, torch.tensor(classes, dtype=torch.int64), 0.1)
    value.backward()
    assert value.item() == 0 and torch.equal(features.grad, torch.zeros_like(features))
    zeros = torch.zeros(3, 4, requires_grad=True)  # dead features
    contrastive_loss(zeros, torch.tensor([0, 0, 1]), 0.1).backward()
    assert zeros.grad.isfinite().all()


def test_supcon_sums_over_the_classifications_and_streams():
    found = context()
    term = ready(SupCon(0.5, 0.2, projection=None), found)
    assert list(term.parameters()) == []
    parts = {"one": part(9, ["type", "size"], 1), "two": part(7, ["other"], 2)}
    now = step(found.model, parts, [term])
    expected = sum(
        by_definition(now.outputs[stream].features.detach(), parts[stream].targets[name], 0.2)
        for stream, name in (("one", "type"), ("two", "other"))
    )
    assert term(now).item() == pytest.approx(0.5 * expected, rel=1e-4)


def test_a_projection_of_supcon_is_the_tasks_own_and_trains_with_the_features():
    found = context()
    term = ready(SupCon(1.0, 0.1, projection=5, tasks=["other"]), found)
    assert [tuple(p.shape) for p in term.parameters()] == [(16, 16), (16,), (5, 16), (5,)]
    batch = part()
    now = step(found.model, {"target": batch}, [term])
    value = term(now)
    first, second = term.projections["other"][0], term.projections["other"][2]
    projected = second(first(now.outputs["target"].features).relu()).detach()
    assert value.item() == pytest.approx(by_definition(projected, batch.targets["other"], 0.1), rel=1e-4)
    value.backward()
    trained = [*term.parameters(), *found.model.backbone.parameters()]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    assert first.weight.grad.abs().sum() > 0 and found.model.backbone.block1[0].weight.grad.abs().sum() > 0


def test_what_supcon_refuses():
    for arguments, message in (
        ({"tasks": "size"}, "'tasks' of supcon should name a classification. Found 'size', a regression"),
        ({"tasks": ["typ"]}, r"'tasks' of supcon names the unknown task 'typ'. Did you mean 'type'\?"),
        ({"temperature": 0}, "'temperature' of supcon should be above 0. Found 0"),
        ({"projection": 0}, "'projection' of supcon should be 1 or more outputs, or null for none. Found 0"),
        ({"weight": -0.1}, "'weight' of supcon should not be negative. Found -0.1"),
    ):
        with pytest.raises(ConfigError, match=message):
            SupCon(**arguments).setup(context())
    found = context(tasks={name: TASKS[name] for name in ("size", "marks")})
    with pytest.raises(ConfigError, match=r"needs a classification. Found size \(regression\), marks \(multilabel\)"):
        SupCon().setup(found)

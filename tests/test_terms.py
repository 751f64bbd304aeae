"""Terms and weightings against their formulas, computed by hand."""

import copy

import pytest
import torch
from torch import nn

import tlmtl
from tlmtl.assemble import assemble
from tlmtl.errors import ConfigError
from tlmtl.models.encoder import Output
from tlmtl.models.heads import LinearHead
from tlmtl.models.small_cnn import small_cnn
from tlmtl.sharing.hard import HardSharing
from tlmtl.tasks.classification import Classification
from tlmtl.terms.base import Context, Step
from tlmtl.terms.distill_features import DistillFeatures
from tlmtl.terms.l2_sp import L2SP
from tlmtl.weighting.static import Static, Sum

torch.set_num_threads(1)


def model_and_context(from_source=True):
    torch.manual_seed(0)
    encoder = small_cnn(width=4)
    model = HardSharing(encoder, {"t": LinearHead(16, 3)})
    return model, Context(model, encoder, {}, {}, from_source)


def step(model, features=None, source=None):
    outputs = {"target": Output(torch.zeros(2, 16) if features is None else features)}
    return Step(model, {}, outputs, {} if source is None else {"target": Output(source)}, 0, 1)


def tasks(**weights):
    return {name: Classification(name, ["a", "b"], ["accuracy"], weight=weight) for name, weight in weights.items()}


def test_l2_sp_equals_the_formula():
    model, context = model_and_context()
    term = L2SP(alpha=0.3, beta=0.07)
    term.setup(context)
    heads = sum(p.detach().square().sum() for p in model.heads.parameters())
    assert term(step(model)).item() == pytest.approx(0.07 / 2 * heads.item())  # nothing has moved away yet
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p))
    expected = 0.0
    for name, p in model.named_parameters():
        distance, weight = (p - before[name], 0.3) if name.startswith("backbone.") else (p, 0.07)
        expected += weight / 2 * distance.detach().square().sum().item()
    value = term(step(model))
    assert value.item() == pytest.approx(expected, rel=1e-5)
    value.backward()
    name, p = "backbone.block2.0.weight", model.backbone.block2[0].weight
    torch.testing.assert_close(p.grad, 0.3 * (p.detach() - before[name]))
    model.backbone.requires_grad_(False)  # what is frozen adds nothing
    assert term(step(model)).item() == pytest.approx(
        0.07 / 2 * sum(p.square().sum().item() for p in model.heads.parameters())
    )


def test_the_source_of_l2_sp_goes_where_the_term_goes():
    _, context = model_and_context()
    term = L2SP()
    term.setup(context)
    assert {tensor.device.type for tensor in term.source.values()} == {"cpu"} and len(term.source) == 9
    assert {tensor.device.type for tensor in term.to("meta").source.values()} == {"meta"}
    assert term.state_dict() == {}


@pytest.mark.parametrize("loss", ["mse", "cosine"])
@pytest.mark.parametrize("projection", [False, True])
def test_distillation_is_zero_at_the_start_and_its_formula_later(loss, projection):
    model, context = model_and_context()
    term = DistillFeatures(0.7, loss, projection)
    term.setup(context)
    theirs = torch.randn(5, 16)
    assert term(step(model, theirs.clone(), theirs)).item() == pytest.approx(0, abs=1e-6)
    mine = torch.randn(5, 16, requires_grad=True)
    value = term(step(model, mine, theirs))
    if loss == "mse":
        expected = ((mine - theirs) ** 2).sum() / (5 * 16)
    else:
        expected = 1 - ((mine * theirs).sum(1) / (mine.norm(dim=1) * theirs.norm(dim=1))).mean()
    assert value.item() == pytest.approx(0.7 * expected.item(), rel=1e-5) and value.item() > 0.1
    value.backward()
    assert mine.grad.abs().sum() > 0
    assert [p.grad.abs().sum().item() > 0 for p in term.parameters()] == ([True] if projection else [])


def test_a_projection_is_trained():
    start = copy.deepcopy(assembled("strategy=distill", "strategy.terms.distill_features.projection=true"))
    term = start.terms["distill_features"]
    weight = term.projections["shared"].weight
    assert torch.equal(weight, torch.eye(16)) and term.needs.source_model
    optimizer = start.groups.optimizer(torch.optim.AdamW, 0.01)
    assert any(p is weight for group in optimizer.param_groups for p in group["params"])
    start.groups.begin(0, True)
    term(step(start.model, torch.randn(5, 16), torch.randn(5, 16))).backward()
    optimizer.step()
    assert (weight - torch.eye(16)).abs().max().item() == pytest.approx(0.01 * 0.04, rel=1e-3)


def assembled(*overrides):
    """With a source that exists on paper alone: nothing is trained for it."""
    return assemble(tlmtl.compose(["model.width=4", *overrides]), with_source=False)


def test_terms_without_a_source_are_refused():
    for name, text in (("l2_sp", "pulls towards the source parameters"), ("distill_features", "needs a source model")):
        with pytest.raises(ConfigError, match=f"term {name} {text}, but nothing is initialised from a source"):
            assembled("strategy=from_scratch", f"term={name}")
    assert list(assembled("strategy=l2sp", "term=distill_features").terms) == ["l2_sp", "distill_features"]
    with pytest.raises(ConfigError, match=r"'alpha' and 'beta' of l2_sp should not be negative. Found -1 and 0.01"):
        L2SP(alpha=-1)
    with pytest.raises(ConfigError, match=r"'loss' of distill_features should be mse or cosine. Found 'l1'"):
        DistillFeatures(loss="l1")
    with pytest.raises(ConfigError, match=r"'weight' of distill_features should not be negative. Found -2"):
        DistillFeatures(-2)


@pytest.mark.parametrize("extra", [None, 0.5])
def test_weightings_fill_the_gradient_of_their_sum(extra):
    shared = nn.Parameter(torch.tensor([1.0, 2.0]))

    def losses():
        term = None if extra is None else extra * shared.sum()
        return {"a": (shared**2).sum(), "b": (3 * shared).sum(), "c": shared.prod()}, term

    for made, weights in (
        (Sum(tasks=tasks(a=1, b=1, c=1)), {"a": 1, "b": 1, "c": 1}),
        (Static(tasks=tasks(a=0.5, b=2, c=0)), {"a": 0.5, "b": 2, "c": 0}),
    ):
        shared.grad = None
        assert made.backward(*losses(), [shared]) == weights
        expected = weights["a"] * 2 * shared + weights["b"] * 3 + weights["c"] * shared.flip(0) + (extra or 0)
        torch.testing.assert_close(shared.grad, expected.detach())
        found, term = losses()
        del found["b"]  # a task that is absent from the batch
        shared.grad = None
        assert made.backward(found, term, [shared]) == {name: weights[name] for name in "ac"}
        torch.testing.assert_close(shared.grad, (expected - weights["b"] * 3).detach())


def test_weights_that_a_weighting_does_not_take():
    with pytest.raises(ConfigError, match=r"the weight 1. Found dataset.tasks.b.weight=2: use weighting=static"):
        Sum(tasks=tasks(a=1, b=2))
    with pytest.raises(ConfigError, match=r"should not be negative, and not all zero. Found {'a': 1, 'b': -1}"):
        Static(tasks=tasks(a=1, b=-1))
    with pytest.raises(ConfigError, match=r"not all zero. Found {'a': 0, 'b': 0}"):
        Static(tasks=tasks(a=0, b=0))
    both = ["strategy=from_scratch", "tasks=[digit,parity]", "dataset.tasks.parity.weight=0.25"]
    with pytest.raises(ConfigError, match=r"Found dataset.tasks.parity.weight=0.25: use weighting=static"):
        assembled(*both)
    assert assembled(*both, "weighting=static").weighting.weights == {"digit": 1.0, "parity": 0.25}

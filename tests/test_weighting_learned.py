"""The weights that are learned with the model: what each loss gets, and where the weights settle."""

import math

import pytest
import torch
from mtl import tasks_named, weighting
from torch import nn

from tlmtl.tasks.classification import Classification
from tlmtl.tasks.reconstruction import Reconstruction
from tlmtl.tasks.regression import Regression
from tlmtl.weighting.learned import IMTLL, Uncertainty


def numbers(*values):
    """Losses with these values, by task, and the one parameter of each, (K,)."""
    parameter = nn.Parameter(torch.tensor(values))
    return dict(zip("abcdefgh"[: len(values)], parameter, strict=False)), parameter


def test_uncertainty_has_both_forms_of_the_paper():
    made = Uncertainty(tasks=tasks_named("ab"))  # a classification, a regression
    with torch.no_grad():
        made.log_variance.copy_(torch.tensor([0.4, -0.6]))
    losses, values = numbers(1.5, 3.0)
    made.begin_step()
    weights = made.backward(losses, None, [])
    expected = [math.exp(-0.4), math.exp(0.6) / 2]
    assert weights == pytest.approx({"a": expected[0], "b": expected[1]})
    assert values.grad.tolist() == pytest.approx(expected)
    slopes = [-math.exp(-0.4) * 1.5 + 0.5, -math.exp(0.6) / 2 * 3 + 0.5]
    assert made.log_variance.grad.tolist() == pytest.approx(slopes)


# By a task's loss: its factor, what its s costs, and exp(s) at the best s for a loss of 1.5.
FORMS = [
    (Regression("k", 0.0, 1.0, ["mae"]), 0.5, 0.5, 1.5),
    (Regression("k", 0.0, 1.0, ["mae"], loss_name="l1"), 1.0, 1.0, 1.5),
    (Regression("k", 0.0, 1.0, ["mae"], loss_name="huber"), 1.0, 0.5, 3.0),
    (Reconstruction("k", ["mse"]), 0.5, 0.5, 1.5),
    (Classification("k", ["x", "y"], ["accuracy"]), 1.0, 0.5, 3.0),
]


@pytest.mark.parametrize(("task", "factor", "penalty", "best"), FORMS)
def test_uncertainty_goes_by_the_loss_of_a_task(task, factor, penalty, best):
    made = Uncertainty(tasks={"k": task})
    for s in (0.4, math.log(best)):
        with torch.no_grad():
            made.log_variance.fill_(s)
        made.log_variance.grad = None
        made.begin_step()
        loss = torch.tensor(1.5, requires_grad=True)
        assert made.backward({"k": loss}, None, []) == pytest.approx({"k": factor * math.exp(-s)})
        assert loss.grad.item() == pytest.approx(factor * math.exp(-s))
        assert made.log_variance.grad.item() == pytest.approx(penalty - factor * math.exp(-s) * 1.5, abs=1e-6)
    assert made.log_variance.grad.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("loss", "density"), [("mse", torch.distributions.Normal), ("l1", torch.distributions.Laplace)]
)
def test_uncertainty_is_the_likelihood_of_the_errors(loss, density):
    """Its slope in s is that of the mean negative log-likelihood of errors with this scale."""
    task, errors = Regression("k", 0.0, 1.0, ["mae"], loss_name=loss), torch.tensor([0.3, -2.0, 1.1])
    made, s = Uncertainty(tasks={"k": task}), torch.tensor(0.7, requires_grad=True)
    with torch.no_grad():
        made.log_variance.fill_(s)
    made.begin_step()
    made.backward({"k": task.loss(errors[:, None], torch.zeros(3), torch.ones(3, dtype=torch.bool))}, None, [])
    scale = s.exp().sqrt() if loss == "mse" else s.exp()
    (-density(0.0, scale).log_prob(errors).mean()).backward()
    torch.testing.assert_close(made.log_variance.grad[0], s.grad)


@pytest.mark.parametrize(("made", "best"), [(Uncertainty, (2 * 1.5, 3.0)), (IMTLL, (1 / 1.5, 1 / 3.0))])
def test_learned_weights_settle_at_the_optimum_of_the_paper(made, best):
    made = made(tasks=tasks_named("ab"))
    (parameter,) = made.parameters()
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    for _ in range(300):
        optimizer.zero_grad()
        made.begin_step()
        made.backward(numbers(1.5, 3.0)[0], None, [])
        optimizer.step()
    assert parameter.exp().tolist() == pytest.approx(best, rel=1e-4)


def test_a_regulariser_counts_once_a_step_and_for_tasks_that_are_there():
    for name, slope in (("uncertainty", 0.5), ("imtl_l", -1.0)):
        made = weighting(name, names="abc")
        (parameter,) = made.parameters()
        made.begin_step()
        made.backward({"a": torch.zeros((), requires_grad=True)}, None, [])
        made.backward({k: torch.zeros((), requires_grad=True) for k in "ac"}, None, [])
        assert parameter.grad.tolist() == [slope, 0, slope]

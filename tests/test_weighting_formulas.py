"""Weightings of one weighted loss against their papers' formulas, computed by hand or by TorchJD."""

import math
import subprocess
import sys

import pytest
import torch
from mtl import Tiny, batch, gradients, losses_of, optimizer_of, step, tasks_named, weighting
from torch import nn
from torchjd import scalarization

from tlmtl.errors import ConfigError, TrainingError
from tlmtl.tasks.classification import Classification
from tlmtl.weighting.dwa import DWA
from tlmtl.weighting.famo import FAMO
from tlmtl.weighting.formulas import GLS, STCH
from tlmtl.weighting.gradnorm import GradNorm
from tlmtl.weighting.static import Static


def numbers(*values):
    """Losses with these values, by task, and the one parameter of each, (K,)."""
    parameter = nn.Parameter(torch.tensor(values))
    return dict(zip("abcdefgh"[: len(values)], parameter, strict=False)), parameter


def agree_with(scalarizer, name, steps=4, **settings):
    """Gradients and parameters after some steps are those of a scalarizer of TorchJD."""
    made, model, other = weighting(name, "loss", **settings), Tiny(), Tiny()
    optimizers = [optimizer_of(made, model), optimizer_of(scalarizer, other)]
    if isinstance(scalarizer, scalarization.FAMO):
        optimizers[1] = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9)
    for number in range(steps):
        step(made, model, optimizers[0], number)
        optimizers[1].zero_grad()
        stacked = torch.stack(list(losses_of(other, *batch(number))[1].values()))
        scalarizer(stacked).backward()
        optimizers[1].step()
        if isinstance(scalarizer, scalarization.FAMO):
            with torch.no_grad():
                scalarizer.update(torch.stack(list(losses_of(other, *batch(number))[1].values())))
    for key, tensor in other.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], tensor, rtol=1e-4, atol=1e-6)
    return made


def test_the_geometric_mean_is_torchjds():
    agree_with(scalarization.GeometricMean(), "gls")


def test_the_smooth_maximum_is_torchjds():
    agree_with(scalarization.STCH(0.3), "stch", mu=0.3)


def test_imtl_l_is_torchjds():
    scalarizer = scalarization.IMTLL(3)
    made = agree_with(scalarizer, "imtl_l")
    torch.testing.assert_close(made.log_scale, scalarizer.log_scale)


def test_famo_is_torchjds_and_so_is_its_adam():
    scalarizer = scalarization.FAMO(3, lr=0.025, weight_decay=1e-3)
    made = agree_with(scalarizer, "famo", steps=8)
    torch.testing.assert_close(made.logits, scalarizer._w.detach(), check_stride=False)
    assert made.logits.abs().max() > 0.05  # it has moved: no task falls as fast as another


def test_random_weights_are_torchjds_draw_and_stay_for_the_step():
    made, (losses, values) = weighting("rlw"), numbers(1.0, 2.0, 4.0)
    torch.manual_seed(5)
    made.begin_step()
    weights = made.backward(losses, None, [])
    torch.manual_seed(5)
    expected = torch.softmax(torch.randn(3), 0)
    assert list(weights.values()) == pytest.approx(expected.tolist()) and sum(weights.values()) == pytest.approx(1)
    torch.testing.assert_close(values.grad, expected)
    assert made.backward(numbers(1.0, 2.0, 4.0)[0], None, []) == weights
    made.begin_step()
    assert made.backward(numbers(1.0, 2.0, 4.0)[0], None, []) != weights


def test_dwa_over_three_epochs_by_hand():
    made = DWA(temperature=2.0, tasks=tasks_named("ab"), steps_per_epoch=2)
    epochs = [[(4.0, 1.0), (2.0, 1.0)], [(2.0, 1.0), (1.0, 3.0)], [(1.0, 1.0), (1.0, 2.0)], [(9.0, 9.0)]]
    found = []
    for epoch in epochs:
        for pair in epoch:
            losses, values = numbers(*pair)
            made.begin_step()
            found.append(made.backward(losses, None, []))
            assert values.grad.tolist() == pytest.approx(list(found[-1].values()))
    assert found[:4] == [{"a": 1.0, "b": 1.0}] * 4  # means: a 3, 1.5, 1; b 1, 2, 1.5

    def by_hand(a, b):
        total = math.exp(a / 2) + math.exp(b / 2)
        return pytest.approx({"a": 2 * math.exp(a / 2) / total, "b": 2 * math.exp(b / 2) / total})

    assert found[4] == found[5] == by_hand(1.5 / 3, 2 / 1)
    assert found[6] == by_hand(1 / 1.5, 1.5 / 2)


def test_dwa_keeps_the_means_of_a_task_that_is_away_for_an_epoch():
    made = DWA(tasks=tasks_named("ab"), steps_per_epoch=1)
    for pair in ((4.0, 2.0), (1.0, 1.0), (2.0, None), (6.0, 3.0)):
        losses, _ = numbers(*[value for value in pair if value is not None])
        made.begin_step()
        weights = made.backward(losses, None, [])
    assert made.means == {"a": [1.0, 2.0], "b": [2.0, 1.0]}
    total = math.exp(2 / 2) + math.exp(0.5 / 2)
    assert weights == pytest.approx({"a": 2 * math.exp(1) / total, "b": 2 * math.exp(0.25) / total})
    made.begin_step()
    assert made.means == {"a": [2.0, 6.0], "b": [1.0, 3.0]}


def test_gls_takes_a_loss_of_zero_and_refuses_a_negative_one():
    made, (losses, values) = GLS(tasks=tasks_named("ab")), numbers(0.0, 4.0)
    assert made.backward(losses, None, []) == {"a": 0.0, "b": pytest.approx(math.sqrt(4e-12) / 8)}
    assert values.grad.isfinite().all()
    with pytest.raises(TrainingError, match=r"weighting=gls takes losses of 0 or more. That of task 'b' is -1.0"):
        made.backward(numbers(1.0, -1.0)[0], None, [])


def test_stch_prefers_by_the_weights_of_the_tasks():
    tasks = {"a": Classification("a", ["x", "y"], ["accuracy"], weight=3.0), **tasks_named("c")}
    made, (losses, values) = STCH(mu=0.5, tasks=tasks), numbers(1.0, 2.0)
    made.backward({"a": losses["a"], "c": losses["b"]}, None, [])
    point = torch.tensor([1.0, 2.0], requires_grad=True)
    scalarization.STCH(0.5, weights=torch.tensor([0.75, 0.25]))(point).backward()
    torch.testing.assert_close(values.grad, point.grad)


@pytest.mark.parametrize("level", ["features", "parameters"])
@pytest.mark.parametrize("alpha", [0.0, 1.5])
def test_gradnorm_follows_the_gradient_of_its_loss(level, alpha):
    """The closed form of the slope against a second derivative, as the paper has it."""
    made, model = GradNorm(alpha, level, tasks=tasks_named()), Tiny()
    optimizer = optimizer_of(made, model, 0.02)
    for number in range(3):
        start = made.start or {k: v.item() for k, v in losses_of(model, *batch(number))[1].items()}
        features, losses = losses_of(model, *batch(number))
        at = features if level == "features" else model.encoder[2].weight  # the last shared layer
        weights = made.weights.detach().clamp(min=0)
        weights = (weights * 3 / weights.sum()).requires_grad_()
        norms = [
            torch.autograd.grad(w * x, at, create_graph=True)[0].norm()
            for w, x in zip(weights, losses.values(), strict=True)
        ]
        norms = torch.stack(norms)
        fallen = torch.stack([x.detach() / start[k] for k, x in losses.items()])
        wanted = (norms.mean() * (fallen / fallen.mean()) ** alpha).detach()
        (slope,) = torch.autograd.grad((norms - wanted).abs().sum(), weights)
        used = step(made, model, optimizer, number)
        torch.testing.assert_close(made.weights.grad, slope, rtol=1e-4, atol=1e-6)
        assert list(used.values()) == pytest.approx(weights.tolist(), rel=1e-5) and sum(used.values()) == pytest.approx(
            3
        )
    assert made.start == pytest.approx({k: v.item() for k, v in losses_of(Tiny(), *batch(0))[1].items()})
    assert made.weights.detach().std() > 0.01


def test_gradnorm_scales_its_weights_and_keeps_them_above_zero():
    made = GradNorm(tasks=tasks_named())
    for before, after in (([2.0, -1.0, 4.0], [1.0, 0.0, 2.0]), ([-1.0, -1.0, 0.0], [1.0, 1.0, 1.0])):
        with torch.no_grad():
            made.weights.copy_(torch.tensor(before))
        made.begin_step()
        assert made.weights.tolist() == pytest.approx(after)


def test_static_weights_by_list_by_name_and_by_the_data_set():
    tasks = {"a": Classification("a", ["x", "y"], ["accuracy"], weight=0.5), **tasks_named("bc")}
    assert Static(tasks=tasks).weights == {"a": 0.5, "b": 1.0, "c": 1.0}
    assert weighting("static", weights=[0, 2, 0.5]).weights == {"a": 0, "b": 2, "c": 0.5}
    made = weighting("static", weights={"c": 0.5, "a": 0, "b": 2})
    model = Tiny()
    features, losses = losses_of(model, *batch())
    assert made.backward(losses, None, model.shared, features) == {"a": 0, "b": 2, "c": 0.5}
    found = gradients(model.encoder)
    model.zero_grad()
    losses = losses_of(model, *batch())[1]
    (2 * losses["b"] + 0.5 * losses["c"]).backward()
    for key, expected in gradients(model.encoder).items():
        torch.testing.assert_close(found[key], expected)


REFUSED = [
    ("static", {"weights": [1, 2, 3, 4]}, "more weights than tasks: 4 for 3. Expected one for each of a, b, c"),
    ("static", {"weights": [1, 2]}, "fewer weights than tasks: 2 for 3"),
    ("static", {"weights": {"a": 1, "b": 1}}, "should have a weight for each task. There is none for c"),
    ("static", {"weights": {"a": 1, "b": 1, "c": 1, "d": 1}}, "names an unknown task 'd'."),
    ("static", {"weights": [1, -2, 1]}, "should not be negative, and not all zero. Found {'a': 1.0, 'b': -2.0"),
    ("static", {"weights": [0, 0, 0]}, "should not be negative, and not all zero. Found {'a': 0.0"),
    ("static", {"weights": [1, "x", 1]}, "should hold numbers. Found 'x' for the task 'b'"),
    ("static", {"weights": [1, float("nan"), 1]}, "should hold numbers. Found nan for the task 'b'"),
    ("static", {"weights": 3}, "should be a list, a mapping from task to weight, or null. Found 3"),
    ("dwa", {"temperature": 0}, "'weighting.temperature' of dwa should be above 0. Found 0.0"),
    ("stch", {"mu": -1}, "'weighting.mu' of stch should be above 0. Found -1.0"),
    ("famo", {"lr": -1}, "'weighting.lr' of famo should be 0 or more. Found -1.0"),
    ("famo", {"weight_decay": -1}, "'weighting.weight_decay' of famo should be 0 or more. Found -1.0"),
    ("gradnorm", {"alpha": -1}, "'weighting.alpha' of gradnorm should be 0 or more. Found -1.0"),
    ("gradnorm", {"level": "loss"}, "'weighting.level' should be features or parameters. Found 'loss'"),
    ("dwa", {"temprature": 1}, "Unknown key 'weighting.temprature'"),
]


@pytest.mark.parametrize(("name", "settings", "message"), REFUSED)
def test_wrong_settings_are_refused(name, settings, message):
    with pytest.raises(ConfigError) as caught:
        weighting(name, **{"level": "parameters", **settings})
    assert message in str(caught.value)


def test_static_weights_in_two_places_are_refused():
    tasks = {"a": Classification("a", ["x", "y"], ["accuracy"], weight=0.5), **tasks_named("bc")}
    with pytest.raises(ConfigError, match=r"stands in place of the data set's.* Found dataset.tasks.a.weight=0.5"):
        Static(weights=[1, 1, 1], tasks=tasks)


def test_weightings_of_one_loss_need_no_extra():
    """All of them are imported where TorchJD is not to be had."""
    code = (
        "import sys; sys.modules['torchjd'] = None; "
        "from tlmtl.weighting import dwa, famo, formulas, gradnorm, learned, static, torchjd"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_famo_forgets_the_batch_before():
    made = FAMO(tasks=tasks_named("ab"))
    made.begin_step()
    made.backward(numbers(1.0, 2.0)[0], None, [])
    made.begin_step()
    made.after_step({"a": torch.tensor(0.5), "b": torch.tensor(0.5)})
    assert made.logits.tolist() == [0.0, 0.0]

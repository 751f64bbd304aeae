"""Gradient aggregators: what they promise, and that the adapter keeps to the gradients it is given."""

import importlib.util
import sys

import numpy as np
import pytest
import quadprog
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mtl import AGGREGATORS, NODES, Tiny, batch, gradients, losses_of, optimizer_of, step, tasks_named, weighting
from torchjd import aggregation
from torchjd.autojac import jac_to_grad, mtl_backward

from tlmtl.errors import ConfigError, TrainingError
from tlmtl.weighting.torchjd import TorchJD

LEVELS = pytest.mark.parametrize("level", ["features", "parameters"])
CONFLICT = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])


def matrices(rows, columns):
    """Random ones, with rows of different lengths that often conflict."""
    return st.integers(0, 10_000).map(lambda seed: _matrix(seed, rows, columns))


def _matrix(seed, rows, columns):
    generator = torch.Generator().manual_seed(seed)
    lengths = 0.1 + 2 * torch.rand(rows, 1, generator=generator)
    return lengths * (torch.randn(rows, columns, generator=generator) + 0.3)


def aggregate(name, rows, **settings):
    made = weighting(name, names="abcdefgh"[: len(rows)], **settings)
    return made._weights(rows, list(made.index)) @ rows


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("upgrad", [0.2929, 1.9004, 1.9004]),
        ("mgda", [0.0, 1.0, 1.0]),
        ("pcgrad", [0.5848, 3.8012, 3.8012]),
        ("cagrad", [0.1835, 1.2041, 1.2041]),
        ("imtl_g", [0.0767, 1.0, 1.0]),
        ("aligned_mtl", [0.2133, 0.9673, 0.9673]),
        ("config", [0.1588, 2.0706, 2.0706]),
    ],
)
def test_stored_values(name, expected):
    torch.testing.assert_close(aggregate(name, CONFLICT), torch.tensor(expected), rtol=0, atol=2e-4)


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_fairgrad_solves_its_equation(alpha):
    """G w = w^(-1/alpha), Ban & Ji 2024, eq. 4."""
    made = weighting("fairgrad", names="ac", settings={"alpha": alpha})
    weights = made._weights(CONFLICT, ["a", "c"])
    torch.testing.assert_close(CONFLICT @ CONFLICT.T @ weights, weights ** (-1 / alpha), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", AGGREGATORS)
def test_small_gradients_count_as_large_ones_do(name):
    """TorchJD takes a sum of squares below 1e-4 for 0."""
    found = []
    for scale in (1.0, 1e-5):
        torch.manual_seed(0)
        weights = weighting(name)._weights(scale * _matrix(2, 3, 40), list("abc"))
        found.append(
            weights * (scale ** (4 / 3) if name == "fairgrad" else 1.0)
        )  # w is of degree -2 alpha / (1 + alpha)
    if name == "nash_mtl":  # its vector may be shorter than 1, not longer
        found = [weights / weights.norm() for weights in found]
    assert found[0].abs().max() > 0.01
    torch.testing.assert_close(found[1], found[0], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("name", AGGREGATORS)
def test_gradients_of_zero_are_no_error(name):
    for rows in (torch.zeros(3, 5), torch.cat([torch.zeros(1, 5), _matrix(0, 2, 5)])):
        made = weighting(name)
        for _ in range(2):
            assert (made._weights(rows, list("abc")) @ rows).isfinite().all()


@pytest.mark.parametrize("name", [name for name in AGGREGATORS if name not in ("pcgrad", "gradvac")])  # these draw
@pytest.mark.parametrize("shape", [(2, 3), (4, 30), (8, 200)])
@pytest.mark.filterwarnings("ignore:You are solving")
def test_weights_make_the_vector_that_torchjd_gives(name, shape):
    node = NODES[name]
    own = {"n_tasks": shape[0]} if name == "nash_mtl" else {}
    rows = _matrix(1, *shape)
    expected = getattr(aggregation, node.aggregator)(**own, **node.settings)(rows)
    torch.testing.assert_close(aggregate(name, rows), expected, rtol=1e-3, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([(2, 5), (3, 3), (5, 20), (8, 40)]).flatmap(lambda shape: matrices(*shape)))
def test_mgda_is_the_shortest_vector_of_an_exact_quadratic_programme(rows):
    """To within the accuracy of its Frank-Wolfe steps, a hundredth of the rows' mean squared length."""
    gram = (rows.double() @ rows.double().T).numpy()
    count = len(rows)
    sum_to_one = np.vstack([np.ones(count), np.eye(count)]).T
    exact = quadprog.solve_qp(gram + 1e-9 * np.eye(count), np.zeros(count), sum_to_one, np.eye(1, count + 1)[0], 1)[0]
    shortest, scale = exact @ gram @ exact, gram.diagonal().mean()
    found = aggregate("mgda", rows).double().square().sum().item()
    assert shortest - 1e-6 * scale <= found <= shortest + 1e-2 * scale
    accurate = aggregate("mgda", rows, settings={"epsilon": 1e-6, "max_iters": 1500})
    assert accurate.double().square().sum().item() <= shortest + 3e-3 * scale


# UPGrad (projections onto the dual cone) and MGDA (the shortest vector of a hull) promise that no task gets worse; so do, where
# rows are independent, Nash-MTL and FairGrad (by their equations J g is a vector of positive numbers) and ConFIG (one
# positive cosine to all). CAGrad does for c >= 1 only, PCGrad for two tasks only; GradVac, IMTL-G and Aligned-MTL do not.
@pytest.mark.parametrize("name", ["upgrad", "mgda", "nash_mtl", "fairgrad", "config"])
@settings(max_examples=15, deadline=None)
@given(rows=matrices(4, 30))
def test_no_task_gets_worse_where_that_is_promised(name, rows):
    vector = aggregate(name, rows)
    cosines = (rows @ vector) / (rows.norm(dim=1) * vector.norm())
    assert cosines.min() > -0.02


@settings(max_examples=15, deadline=None)
@given(rows=matrices(2, 3))
def test_two_tasks_do_not_get_worse_under_pcgrad(rows):
    assert (rows @ aggregate("pcgrad", rows)).min() > -1e-4
    assert (rows @ aggregate("cagrad", rows, settings={"c": 1.0})).min() > -1e-3


@LEVELS
def test_a_sum_by_way_of_the_gradients_is_the_plain_backward_pass(level):
    found = []
    for made in (TorchJD("Sum", level, tasks=tasks_named()), None):
        model = Tiny()
        features, losses = losses_of(model, *batch())
        extra = 0.1 * features.square().mean() + 0.01 * model.encoder[0].weight.square().sum()
        if made is None:
            (sum(losses.values()) + extra).backward()
        else:
            made.begin_step()
            assert made.backward(losses, extra, model.shared, features) == {"a": 1, "b": 1, "c": 1}
        found.append(gradients(model))
    for key, expected in found[1].items():
        torch.testing.assert_close(found[0][key], expected, rtol=1e-6, atol=1e-6)


@LEVELS
@pytest.mark.parametrize("name", ["upgrad", "config", "nash_mtl"])
def test_heads_get_the_plain_gradient_and_terms_are_added_by_themselves(name, level):
    def run(with_term):
        made, model = weighting(name, level), Tiny()
        made.begin_step()
        features, losses = losses_of(model, *batch())
        made.backward(losses, features.square().mean() if with_term else None, model.shared, features)
        return gradients(model)

    model = Tiny()
    features, losses = losses_of(model, *batch())
    term = torch.autograd.grad(features.square().mean(), model.shared, retain_graph=True)
    sum(losses.values()).backward()
    alone, both, plain = run(False), run(True), gradients(model)
    for key in plain:
        if key.startswith("heads."):
            torch.testing.assert_close(alone[key], plain[key])
            torch.testing.assert_close(both[key], plain[key])
    for key, added in zip([k for k in plain if k.startswith("encoder.")], term, strict=True):
        assert not torch.allclose(alone[key], plain[key], rtol=0.05)
        torch.testing.assert_close(both[key], alone[key] + added, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["upgrad", "mgda", "config", "cagrad"])
def test_parameters_are_what_torchjd_called_directly_gives(name):
    made, model, other = weighting(name, "parameters"), Tiny(), Tiny()
    made.begin_step()
    features, losses = losses_of(model, *batch())
    made.backward(losses, None, model.shared, features)
    features, losses = losses_of(other, *batch())
    mtl_backward(list(losses.values()), features=features, parallel_chunk_size=1)
    jac_to_grad(other.shared, getattr(aggregation, made.aggregator)(**NODES[name].settings))
    for key, expected in gradients(other).items():
        torch.testing.assert_close(gradients(model)[key], expected, rtol=1e-3, atol=1e-5)


@LEVELS
def test_weights_are_found_every_so_many_steps_and_kept_in_between(level, monkeypatch):
    made, model = weighting("upgrad", level, update_every=3), Tiny()
    optimizer, asked, passes = optimizer_of(made, model), [], []
    find = made._weights
    monkeypatch.setattr(made, "_weights", lambda rows, tasks: asked.append(made.steps) or find(rows, tasks))
    model.encoder[0].bias.register_hook(lambda _: passes.append(made.steps))
    weights = [step(made, model, optimizer, number) for number in range(7)]
    assert asked == [1, 4, 7]
    assert weights[0] == weights[1] == weights[2] != weights[3] == weights[4] == weights[5] != weights[6]
    expected = [1] * 7 if level == "features" else [3, 1, 1, 3, 1, 1, 3]
    assert [passes.count(number) for number in range(1, 8)] == expected
    model.zero_grad()  # a kept step: the weighted sum for the encoder, the plain one for heads
    made.begin_step()
    features, losses = losses_of(model, *batch())
    kept = made.backward(losses, features.square().mean(), model.shared, features)
    found = gradients(model)
    features, losses = losses_of(model, *batch())
    weighted = sum(kept[k] * loss for k, loss in losses.items()) + features.square().mean()
    expected = torch.autograd.grad(weighted, model.shared, retain_graph=True)
    for key, gradient in zip([k for k in found if k.startswith("encoder.")], expected, strict=True):
        torch.testing.assert_close(found[key], gradient, rtol=1e-4, atol=1e-6)
    (plain,) = torch.autograd.grad(losses["b"], model.heads["b"].weight)
    torch.testing.assert_close(found["heads.b.weight"], plain)


def test_a_task_without_a_kept_weight_makes_all_be_found_anew():
    made, model = weighting("mgda", update_every=10), Tiny()
    optimizer = optimizer_of(made, model)
    first = step(made, model, optimizer, 0, without="b")
    assert set(step(made, model, optimizer, 1)) == set("abc") and set(made.kept) == set("abc")
    assert step(made, model, optimizer, 2, without="b") == {k: made.kept[k] for k in first}


def test_what_an_aggregator_knows_of_a_task_waits_for_it():
    rows = _matrix(0, 3, 20)
    for name, fresh in (("nash_mtl", 1.0), ("gradvac", 0.0)):
        made = weighting(name)
        made._weights(rows[:2], ["a", "c"])
        memory = made.memory.clone()
        at_b = memory[1] if name == "nash_mtl" else torch.cat([memory[1], memory[:, 1]])
        assert (at_b == fresh).all() and (memory[0] != fresh).any() and (memory[2] != fresh).any()
        made._weights(rows[1:], ["b", "c"])
        kept = made.memory[0] == memory[0]
        assert (kept if name == "nash_mtl" else kept.all()) and not torch.equal(made.memory[2], memory[2])


def test_features_are_needed_at_their_level():
    made, model = weighting("upgrad", "features"), Tiny()
    losses = losses_of(model, *batch())[1]
    with pytest.raises(ConfigError, match="needs one feature tensor that all heads take, and this model has none"):
        made.backward(losses, None, model.shared, None)
    other = model.encoder(batch()[0])
    with pytest.raises(ConfigError, match="the loss of task 'a' does not depend on the shared features"):
        made.backward(losses, None, model.shared, other)


def test_weights_that_are_no_numbers_stop_the_run():
    made = weighting("upgrad")
    made._aggregator(3).gramian_weighting.forward = lambda gramian: torch.full((3,), torch.nan)
    with pytest.raises(TrainingError, match=r"The aggregator UPGrad gave the weights \[nan, nan, nan\]"):
        made._weights(_matrix(0, 3, 5), list("abc"))


PIP = "pip install 'tlmtl[mtl]'"


@pytest.mark.parametrize("name", AGGREGATORS)
def test_without_the_extra_the_command_to_install_it_is_told(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchjd", None)
    with pytest.raises(ConfigError) as caught:
        weighting(name)
    assert f"The aggregator {NODES[name].aggregator} needs TorchJD and its solvers: {PIP}." in str(caught.value)


@pytest.mark.parametrize(
    ("name", "solver"), [("upgrad", "quadprog"), ("cagrad", "clarabel"), ("nash_mtl", "ecos"), ("fairgrad", "scipy")]
)
def test_without_a_solver_the_command_to_install_it_is_told(name, solver, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr("torchjd._mixins.find_spec", lambda one: None if one == solver else find(one))
    with pytest.raises(ConfigError) as caught:
        weighting(name)
    assert PIP in str(caught.value) and solver in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"aggregator": "UpGrad"}, "Unknown 'weighting.aggregator=UpGrad'. Did you mean 'UPGrad'? Known: AlignedMTL, "),
        ({"aggregator": "TrimmedMean"}, "cannot be used: it does not weigh the tasks' gradients"),
        ({"aggregator": "PCD"}, "cannot be used: its state would not survive a resume"),
        ({"settings": {"c": 0.5}}, "'weighting.settings' does not suit the aggregator UPGrad: "),
        ({"aggregator": "CAGrad"}, "does not suit the aggregator CAGrad: "),
        ({"aggregator": "CAGrad", "settings": "abc"}, "should be settings by name, {NAME: VALUE, ...}. Found abc"),
        ({"aggregator": "CAGrad", "settings": {"c": -1}}, "c must be non-negative, but got -1"),
        ({"aggregator": "AlignedMTL", "settings": {"scale_mode": "max"}}, "Invalid scale_mode='max'"),
        ({"aggregator": "NashMTL", "settings": {"update_weights_every": 2}}, "is called weighting.update_every here"),
        ({"update_every": 0}, "'weighting.update_every' should be 1 step or more. Found 0"),
        ({"level": "loss"}, "'weighting.level' should be features or parameters. Found 'loss'"),
    ],
)
def test_wrong_settings_are_refused(given, message):
    with pytest.raises(ConfigError) as caught:
        TorchJD(**{"aggregator": "UPGrad", **given}, tasks=tasks_named())
    assert message in str(caught.value)

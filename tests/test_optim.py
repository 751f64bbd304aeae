"""Durations, schedules and optimizer groups, checked against torch's own."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tlmtl.errors import ConfigError
from tlmtl.models.small_cnn import small_cnn
from tlmtl.optim import Constant, Cosine, Groups, OneCycle, Units, check_optimizer
from tlmtl.strategies.rules import match, parse_rules

torch.set_num_threads(1)
UNITS = Units(steps_per_epoch=16, examples_per_epoch=500, total=160)


def groups_of(model, *nodes, schedule=None, total=10, extra=()):
    rules = match(parse_rules(list(nodes) or [{"params": "*"}]), [name for name, _ in model.named_parameters()])
    return Groups(model, rules, schedule or Constant(), Units(5, 100, total), list(extra))


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 1))


def step(model, optimizer, seed):
    data = torch.randn(6, 4, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    model(data).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize(
    ("duration", "steps"),
    [
        (10, 160), ("10", 160), ("10ep", 160), ("1 epoch", 16), ("2.5epochs", 40), (0.5, 8), ("500st", 500),
        ("1e3 steps", 1000), ("1step", 1), ("500ex", 16), ("20000 examples", 640), ("1ex", 1), ("5%", 8),
        ("100percent", 160), ("0%", 0), (0, 0), ("0.1%", 1),
    ],
)  # fmt: skip
def test_durations_become_steps(duration, steps):
    assert UNITS.steps(duration, "train.epochs") == steps


@given(st.integers(1, 500), st.integers(1, 100))
def test_durations_agree_with_one_another(steps_per_epoch, epochs):
    units = Units(steps_per_epoch, steps_per_epoch * 7, steps_per_epoch * epochs)
    asked = (f"{epochs}ep", f"{steps_per_epoch * epochs}st", f"{steps_per_epoch * epochs * 7}ex", "100%")
    assert {units.steps(duration, "x") for duration in asked} == {units.total}
    assert units.steps("50%", "x", of=9) == 5


@pytest.mark.parametrize("duration", ["ten", "-1", "5 weeks", "", "ep", None, "1e", "nan", "5%%"])
def test_bad_durations_are_told(duration):
    with pytest.raises(ConfigError, match=f"'train.epochs' should be a duration: .* Found '{duration}'"):
        UNITS.steps(duration, "train.epochs")


@pytest.mark.parametrize(("total", "warmup"), [(100, "25%"), (40, "10%"), (8, "50%"), (1000, "30%")])
def test_one_cycle_equals_torch(total, warmup):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.7, total_steps=total, pct_start=float(warmup[:-1]) / 100,
        div_factor=25, final_div_factor=400, cycle_momentum=False,
    )  # fmt: skip
    units, mine = Units(total, total, total), OneCycle(warmup=warmup)
    for number in range(total):
        assert 0.7 * mine(number, total, units) == pytest.approx(theirs.get_last_lr()[0], abs=1e-6)
        optimizer.step()
        theirs.step() if number + 1 < total else None


def test_end_points_of_schedules():
    def rates(schedule, total):
        return [schedule(number, total, UNITS) for number in range(total)]

    assert rates(Constant(), 4) == [1, 1, 1, 1]
    assert rates(Constant("3st"), 5) == [0.25, 0.5, 0.75, 1, 1]
    cosine = rates(Cosine(), 100)
    assert cosine[0] == 1 and cosine[50] == pytest.approx(0.5) and cosine[-1] == pytest.approx(0, abs=3e-4)
    assert cosine == [pytest.approx((1 + math.cos(math.pi * t / 100)) / 2) for t in range(100)]
    warm = rates(Cosine("4st", end=0.1), 50)
    assert warm[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1]) and min(warm[4:]) == warm[-1] >= 0.1
    cycle = rates(OneCycle(), 100)
    assert (cycle[0], max(cycle), cycle[-1]) == pytest.approx((0.04, 1, 1e-4)) and cycle.index(max(cycle)) == 24
    for schedule in (Constant(), Cosine(), OneCycle(), OneCycle("0%"), OneCycle("100%")):
        assert all(0 < rate <= 1 for total in (1, 2, 3, 7) for rate in rates(schedule, total))
    with pytest.raises(ConfigError, match=r"'schedule.warmup' should be a duration"):
        Cosine("soon")(0, 10, UNITS)


def test_adamw_through_groups_equals_plain_adamw():
    mine, plain = net(), net()
    groups = groups_of(mine)
    optimizer = groups.optimizer(torch.optim.AdamW, 0.01, weight_decay=0.3)
    matrices = [p for p in plain.parameters() if p.ndim > 1]
    others = [{"params": [p for p in plain.parameters() if p.ndim == 1], "weight_decay": 0.0}]
    theirs = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.3}, *others], lr=0.01)
    for number in range(10):
        assert groups.begin(number, number == 0) == 0.01
        step(mine, optimizer, number)
        step(plain, theirs, number)
    for a, b in zip(mine.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not torch.equal(mine[0].weight, net()[0].weight)


def test_norms_and_biases_are_not_decayed():
    model = small_cnn(width=4).module
    model.append(nn.Linear(16, 2))
    groups = groups_of(model)
    optimizer = groups.optimizer(torch.optim.SGD, 0.1, weight_decay=0.5, momentum=0.9)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    by_name = {name: decay[id(p)] for name, p in model.named_parameters()}
    assert {name for name, value in by_name.items() if value == 0.5} == {f"block{i}.0.weight" for i in (1, 2, 3)} | {
        "4.weight"
    }
    assert set(by_name.values()) == {0.0, 0.5} and len(by_name) == 11
    assert [group["momentum"] for group in optimizer.param_groups] == [0.9, 0.9]
    default = groups.optimizer(torch.optim.AdamW, 0.1)  # decays by 0.01 when nothing is said
    assert sorted(group["weight_decay"] for group in default.param_groups) == [0.0, 0.01]


def test_rates_scales_and_thawing():
    model = net()
    nodes = (
        {"params": "3.*", "lr_scale": 2},
        {"params": "1.*", "frozen": True},
        {"params": "0.*", "from": "6st", "lr_scale": 0.5},
    )
    groups = groups_of(model, *nodes, schedule=Cosine())
    optimizer = groups.optimizer(torch.optim.SGD, 0.1)
    assert groups.trained() == sum(p.numel() for layer in (0, 3) for p in model[layer].parameters())
    rates = {}
    for number in range(10):
        groups.begin(number, number == 0)
        assert model[0].weight.requires_grad == (number >= 6) == (model[0].weight.grad is not None or number == 6)
        assert model[3].weight.requires_grad and not model[1].weight.requires_grad
        assert (model[0].weight is next(iter(groups.shared), None)) == (number >= 6)
        rates[number] = {id(group["params"][0]): group["lr"] for group in optimizer.param_groups}
        step(model, optimizer, number)
    assert rates[0][id(model[3].weight)] == 0.2
    assert rates[5][id(model[3].weight)] == pytest.approx(0.1)
    assert rates[6][id(model[0].weight)] == 0.05  # its schedule starts when it thaws
    assert rates[8][id(model[0].weight)] == pytest.approx(0.025)
    assert id(model[1].weight) not in rates[0]


def test_parameters_of_terms_train_at_the_base_rate():
    extra = nn.Linear(2, 2)
    groups = groups_of(net(), {"params": "*", "lr_scale": 0.1}, extra=[extra])
    optimizer = groups.optimizer(torch.optim.AdamW, 0.5, weight_decay=0.1)
    groups.begin(0, True)
    last = optimizer.param_groups[-1]
    assert [id(p) for p in last["params"]] == [id(p) for p in extra.parameters()]
    assert (last["lr"], last["weight_decay"]) == (0.5, 0.0)
    with pytest.raises(ConfigError, match="'optimizer' cannot be built: LBFGS doesn't support per-parameter options"):
        groups.optimizer(torch.optim.LBFGS, 0.5)
    with pytest.raises(ConfigError, match=r"torch.optim.LBFGS' evaluates a step's loss many times"):
        check_optimizer(torch.optim.LBFGS)

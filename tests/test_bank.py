"""Many heads trained at once are what each would be alone."""

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tlmtl.activations import Activations
from tlmtl.bank.fit import fit_together
from tlmtl.bank.member import Member, head_alone
from tlmtl.checkpoint import seed_everything
from tlmtl.data.images import ArrayImages
from tlmtl.data.streams import Stream, plan
from tlmtl.errors import TrainingError
from tlmtl.loop import fit
from tlmtl.models.encoder import Encoder
from tlmtl.models.heads import LinearHead
from tlmtl.optim import Constant, Groups, OneCycle, Units
from tlmtl.preprocess import Preprocess
from tlmtl.sharing.hard import HardSharing
from tlmtl.strategies.rules import match, parse_rules
from tlmtl.tasks.classification import Classification
from tlmtl.tasks.multilabel import Multilabel
from tlmtl.tasks.regression import Regression
from tlmtl.training import Setup, State, Watch
from tlmtl.weighting.static import Sum

torch.set_num_threads(1)
N, D, VAL = 60, 12, 25
MAKES = {
    "adamw": (torch.optim.AdamW, {}),
    "adam": (torch.optim.Adam, {"betas": (0.8, 0.9), "amsgrad": True}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "plain": (torch.optim.SGD, {}),
}


def task_of(kind: str, where: np.ndarray):
    """A task, and its encoded targets of all examples."""
    random = np.random.default_rng(3)
    classes = random.integers(0, 3, N + VAL)
    classes[::11] = -1  # no label
    if kind == "classification":
        task = Classification("t", ["x", "y", "z"], ["accuracy"], label_smoothing=0.1)
        return task, task.encode(classes)
    if kind == "weighted":
        task = Classification("t", ["x", "y", "z"], ["accuracy"], class_weights=[1.0, 2.0, 0.5])
        return task, task.encode(classes)
    if kind == "multilabel":
        task = Multilabel("t", ["x", "y", "z"], ["mean_average_precision"])
        return task, task.encode(random.integers(0, 2, (N + VAL, 3)).astype(float))
    values = random.normal(2.0, 3.0, N + VAL)
    task = Regression("t", float(values[where].mean()), float(values[where].std() + 1e-3), ["mae"])
    return task, task.encode(values)


def setup_of(kind, make, lr, decay, epochs, seed, labels, dropout, clip, patience, batch, every) -> Setup:
    where = torch.arange(labels)
    task, (targets, mask) = task_of(kind, where.numpy())
    random = torch.Generator().manual_seed(1)
    features = torch.randn(N + VAL, D, generator=random)
    encoder = Encoder(nn.Sequential(nn.Flatten()), D, Preprocess(2, None, (0.5,), (0.5,)), [])
    torch.manual_seed(seed)
    model = HardSharing(encoder, {"t": LinearHead(D, task.outputs, "default", dropout)})
    images = ArrayImages(np.zeros((N + VAL, 1, 2, 2), dtype=np.uint8))

    def stream(name, at):
        made = Stream(name, images, at, {"t": targets[at]}, {"t": mask[at]}, encoder.preprocess)
        return made.as_activations(lambda i, _: Activations(features[at][i]), True)

    steps = -(-labels // batch)
    units = Units(steps, labels, steps * epochs)
    rules = match(parse_rules([{"params": "heads.*", "lr_scale": 0.5}]), [n for n, _ in model.named_parameters()])
    groups = Groups(model, rules, OneCycle() if seed % 2 else Constant(), units, [])
    groups.optimizer(MAKES[make][0], lr=lr, weight_decay=decay, **MAKES[make][1])
    return Setup(
        model=model, tasks={"t": task}, streams={"target": stream("target", where)},
        validation={"target": stream("val", torch.arange(N, N + VAL))},
        plan=lambda epoch: plan({"target": labels}, batch, seed, epoch), weighting=Sum(tasks={"t": task}), terms={},
        groups=groups, optimizer=groups.made, total=units.total, steps_per_epoch=steps, evaluate_every=every,
        checkpoint_every=10**6, seed=seed, autocast=nullcontext, device=torch.device("cpu"), clip=clip, patience=patience,
    )  # fmt: skip


def alone(setup: Setup, seed: int) -> State:
    state = State()
    seed_everything(seed)
    fit(setup, state, Watch())
    return state


def together(setups: list[tuple[Setup, int]]) -> list[Member]:
    members = [
        Member(head_alone(setup), State(), Watch(), (len(setup.streams["target"]), seed), seed)
        for setup, seed in setups
    ]
    fit_together(members)
    return members


def same(one: State, other: State) -> None:
    for name in ("step", "stopped", "best_step", "examples", "labels"):
        assert getattr(one, name) == getattr(other, name), name
    assert [row[:5] for row in one.history] == [row[:5] for row in other.history]
    np.testing.assert_allclose([r[5] for r in one.history], [r[5] for r in other.history], rtol=2e-5, atol=1e-5)
    assert one.best_model.keys() == other.best_model.keys()
    for name, tensor in one.best_model.items():
        torch.testing.assert_close(tensor, other.best_model[name], rtol=1e-5, atol=1e-5)


heads = st.tuples(
    st.sampled_from([1e-4, 1e-2, 0.1]),  # learning rate
    st.sampled_from([0.0, 1e-2, 1.0]),  # weight decay
    st.integers(1, 5),  # epochs
    st.integers(0, 3),  # seed
    st.integers(8, N),  # labels
    st.sampled_from([0.0, 0.0, 0.4]),  # dropout
    st.sampled_from([None, 0.3]),  # clip
    st.sampled_from([None, 3]),  # patience
)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["classification", "weighted", "multilabel", "regression"]),
    st.sampled_from(list(MAKES)),
    st.lists(heads, min_size=1, max_size=7),
    st.integers(3, 20),
    st.integers(1, 5),
)
def test_a_bank_is_each_head_alone(kind, make, chosen, batch, every):
    def made():
        return [(setup_of(kind, make, *one, batch, every), one[3]) for one in chosen]

    for member, (setup, seed) in zip(together(made()), made(), strict=True):
        state = alone(setup, seed)
        if not tied(state):
            same(state, member.state)


def tied(state: State) -> bool:
    """Whether two validations are as good as each other to rounding, so that either may be called the better."""
    best = -math.inf
    for score in [row[5] for row in state.history if (row[2], row[4]) == ("val", "score")]:
        if abs(score - best) <= 1e-5 * max(1.0, abs(score)):
            return True
        best = max(best, score)
    return False


def test_one_loss_that_is_not_finite_ends_one_head(monkeypatch):
    chosen = [(1e-2, 0.0, 4, 0, N, 0.0, None, None)] * 3

    def made():
        found = [(setup_of("regression", "plain", *one, 10, 3), 0) for one in chosen]
        with torch.no_grad():
            found[1][0].model.heads["t"].linear.weight.fill_(1e30)  # its square is infinite
        return found

    members = together(made())
    assert [member.error is None for member in members] == [True, False, True]
    with pytest.raises(TrainingError) as alone_too:
        alone(*made()[1])
    assert str(members[1].error) == str(alone_too.value)
    for number in (0, 2):
        same(alone(*made()[number]), members[number].state)
        assert all(math.isfinite(row[5]) for row in members[number].state.history)


def test_a_watch_may_end_it():
    class Stop(Watch):
        def stop_asked(self, state):
            return KeyboardInterrupt()

    setup = setup_of("classification", "adamw", 0.1, 0.0, 2, 0, N, 0.0, None, None, 10, 3)
    with pytest.raises(KeyboardInterrupt):
        fit_together([Member(setup, State(), Stop(), 0)])

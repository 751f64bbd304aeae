"""The training loop: accumulation, clipping, NaN, early stopping, averaging, and selection on validation alone."""

import copy
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import tlmtl
from tlmtl import job
from tlmtl.data.dataset import Data
from tlmtl.data.images import ArrayImages
from tlmtl.data.streams import Stream, plan
from tlmtl.errors import TrainingError
from tlmtl.evaluation import evaluate, measure
from tlmtl.loop import fit
from tlmtl.models.encoder import Encoder
from tlmtl.models.heads import LinearHead
from tlmtl.optim import Constant, Groups, Units
from tlmtl.preprocess import Preprocess
from tlmtl.sharing.hard import HardSharing
from tlmtl.strategies.rules import match, parse_rules
from tlmtl.tasks.classification import Classification
from tlmtl.tasks.regression import Regression
from tlmtl.terms.base import Term
from tlmtl.training import Setup, State, Watch
from tlmtl.weighting.static import Sum

torch.set_num_threads(1)
N = 24


def setup(total=12, lr=0.1, make=torch.optim.SGD, missing=(), class_weights=None, **more) -> Setup:
    """Two tasks on noise, a network without batch norm, six steps an epoch. `missing`: examples without a class."""
    torch.manual_seed(0)
    encoder = Encoder(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh()), 16, Preprocess(8, None, (0.5,), (0.5,)), ["1"]
    )
    random = np.random.default_rng(0)
    images = ArrayImages(random.integers(0, 256, (2 * N, 1, 8, 8), dtype=np.uint8))
    classes, values = random.integers(0, 3, 2 * N), random.normal(size=2 * N)
    classes[list(missing)] = -1
    tasks = {"c": Classification("c", ["x", "y", "z"], ["accuracy"]), "r": Regression("r", 0.0, 1.0, ["mae"])}
    tasks["c"].class_weights = class_weights
    encoded = {"c": tasks["c"].encode(classes), "r": tasks["r"].encode(values)}

    def stream(name, where):
        targets, masks = ({task: pair[i][where] for task, pair in encoded.items()} for i in (0, 1))
        return Stream(name, images, where, targets, masks, encoder.preprocess)

    model = HardSharing(encoder, {"c": LinearHead(16, 3), "r": LinearHead(16, 1)})
    terms = more.setdefault("terms", {})
    rules = match(parse_rules([{"params": "*"}]), [name for name, _ in model.named_parameters()])
    groups = Groups(model, rules, Constant(), Units(6, N, total), list(terms.values()))
    if "ema" in more:
        average = torch.optim.swa_utils.get_ema_multi_avg_fn(more["ema"])
        more["ema"] = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    settings = {"evaluate_every": 3, "checkpoint_every": 100, "steps_per_epoch": 6, "seed": 0, **more}
    return Setup(
        model,
        tasks,
        {"target": stream("train", torch.arange(N))},
        {"target": stream("val", torch.arange(N, 2 * N))},
        lambda epoch: plan({"target": N}, 4, 0, epoch),
        Sum(tasks=tasks),
        groups=groups,
        optimizer=groups.optimizer(make, lr),
        total=total,
        autocast=nullcontext,
        device=torch.device("cpu"),
        **settings,
    )


class Seen(Watch):
    def __init__(self, look=lambda: None):
        self.losses, self.scores, self.look, self.looked = [], [], look, []

    def stepped(self, state, losses):
        self.losses.append(losses)
        self.looked.append(self.look())

    def evaluated(self, state, metrics, scores):
        self.scores.append(scores[""])


def fitted(made: Setup, look=lambda: None) -> tuple[State, Seen]:
    state, seen = State(), Seen(look)
    fit(made, state, seen)
    return state, seen


class Decay(Term):
    def forward(self, step):
        return 0.1 * step.outputs["target"].features.square().mean()


@pytest.mark.parametrize("class_weights", [None, [0.2, 1.0, 3.0]])
@pytest.mark.parametrize("missing", [(), (0, 1, 2, 5, 6, 7, 8, 11, 13, 17, 21, 22)])
def test_accumulating_changes_nothing_but_memory(missing, class_weights):
    whole, parts = (
        setup(missing=missing, class_weights=class_weights, accumulate=n, terms={"decay": Decay()}) for n in (1, 4)
    )
    start = copy.deepcopy(whole.model.state_dict())
    (_, first), (_, second) = fitted(whole), fitted(parts)
    for a, b in zip(first.losses, second.losses, strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    assert set(first.losses[0]) == {"c", "r", "decay"}
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(tensor, parts.model.state_dict()[name], rtol=1e-5, atol=1e-6)
        assert not torch.equal(tensor, start[name])


def test_every_step_is_counted():
    state, seen = fitted(setup())
    assert (state.step, state.examples, len(seen.losses), len(seen.scores)) == (12, 2 * N, 12, 4)
    history = pd.DataFrame(state.history, columns=["step", "epoch", "split", "task", "name", "value"])
    train = history[(history.split == "train") & (history.task == "c") & (history.name == "loss")]
    assert train.step.tolist() == [3, 6, 9, 12] and train.epoch.tolist() == [0.5, 1, 1.5, 2]
    expected = [np.mean([losses["c"] for losses in seen.losses[i : i + 3]]) for i in (0, 3, 6, 9)]
    assert train.value.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("clip", [None, 1e-3])
def test_clipping_bounds_a_step(clip):
    made = setup(clip=clip, lr=1.0, total=1)
    before = torch.nn.utils.parameters_to_vector(made.model.parameters()).clone()
    fitted(made)
    moved = (torch.nn.utils.parameters_to_vector(made.model.parameters()) - before).norm().item()
    assert moved == pytest.approx(1e-3, rel=1e-3) if clip else moved > 0.1


def test_a_loss_that_is_not_finite_ends_the_run():
    made = setup()

    class Poison(Term):
        def forward(self, step):
            return torch.tensor(float("inf") if step.number == 4 else 0.0, requires_grad=True)

    with pytest.raises(TrainingError, match=r"The term 'poison' became inf at step 5 of 12\. A smaller optimizer.lr"):
        fitted(setup(terms={"poison": Poison()}))
    with torch.no_grad():
        made.model.heads["r"].linear.bias.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"The loss of task 'r' became nan at step 1 of 12"):
        fitted(made)
    with pytest.raises(TrainingError, match=r"The loss of task '[cr]' became (nan|inf) at step \d+ of 12"):
        fitted(setup(lr=1e12))


def test_early_stopping_and_the_best_model():
    made = setup(total=600, lr=0.2, patience=12)
    state, seen = fitted(made)
    best = int(np.argmax(seen.scores))
    assert state.stopped == [""] and state.step < 600 and state.best_step[""] == 3 * (best + 1) == state.step - 12
    assert state.best_score[""] == seen.scores[best] > seen.scores[-1]
    made.model.load_state_dict(state.best_model)
    found = evaluate(made.model, made.validation["target"], made.tasks, nullcontext, made.device)
    told = {
        row[3]: row[5]
        for row in state.history
        if row[0] == state.best_step[""] and row[2] == "val" and row[4] == "loss"
    }
    assert {name: measure(task, found)["loss"] for name, task in made.tasks.items()} == pytest.approx(told)
    assert not fitted(setup(total=12, lr=0.2, patience=12))[0].stopped


def test_an_average_of_the_parameters_is_what_is_evaluated():
    made = setup(ema=0.9, evaluate_every=12)
    weight = made.model.heads["c"].linear.weight
    state, seen = fitted(made, lambda: weight.detach().clone())
    average = seen.looked[0]
    for now in seen.looked[1:]:
        average = 0.9 * average + 0.1 * now
    torch.testing.assert_close(made.ema.module.heads["c"].linear.weight, average)
    assert (average - weight).abs().max() > 1e-3
    assert torch.equal(state.best_model["heads.c.linear.weight"], made.ema.module.heads["c"].linear.weight)
    assert set(state.best_model) == set(made.model.state_dict())
    plain = fitted(setup(evaluate_every=12))[1]
    assert plain.losses == seen.losses and plain.scores != seen.scores


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_a_run_reads_its_test_split_once_and_last(precision, tmp_path, monkeypatch):
    """The whole path of a run, with a data set that counts its reads."""
    events: list[str] = []
    read: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    made, part, train = Data.stream, Stream.part, job.fit
    monkeypatch.setattr(Data, "stream", lambda self, split, *rest: events.append(split) or made(self, split, *rest))
    monkeypatch.setattr(job, "fit", lambda *args: (train(*args), events.append("trained")))

    def counted(self, indices, generator=None):
        read[self.name] += indices.tolist()
        assert (generator is not None) == (self.name == "train")
        assert self.name != "test" or "trained" in events
        return part(self, indices, generator)

    monkeypatch.setattr(Stream, "part", counted)
    small = [
        "model.width=4",
        "train.epochs=6",
        "dataset.labels_per_class=3",
        f"output.root={tmp_path}",
        "progress=false",
    ]
    result = tlmtl.run(tlmtl.compose(["strategy=from_scratch", f"hardware.precision={precision}", *small]))
    assert events == ["train", "val", "trained", "test"]
    assert sorted(read["test"]) == list(range(450))
    assert sorted(read["train"]) == sorted(list(range(30)) * 6)
    assert len(read["val"]) == 359 * (6 + 1)
    history = pd.read_csv(result.folder / "history.csv")
    losses = history[(history.split == "val") & (history.name == "loss")].value
    assert result.rows["val/loss"].item() == pytest.approx(losses.min(), rel=1e-6)

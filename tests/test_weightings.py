"""What holds for every weighting, over every YAML there is."""

import copy

import pytest
import torch
from mtl import (
    AGGREGATORS,
    CASES,
    FILES,
    NODES,
    Tiny,
    batch,
    gradients,
    losses_of,
    optimizer_of,
    step,
    tasks_named,
    weighting,
)

from tlmtl import checkpoint
from tlmtl.config import build
from tlmtl.errors import ConfigError
from tlmtl.weighting.base import Weighting
from tlmtl.weighting.static import Static, Sum

# What they draw belongs to a place in the order of the tasks, so that another order is another draw.
RANDOM = ["rlw", "pcgrad", "gradvac"]
PLAIN_ALONE = [*AGGREGATORS, "sum", "static", "rlw", "gls", "stch", "famo"]  # the others keep what they have learned
every_case = pytest.mark.parametrize(("name", "level"), CASES)


def test_every_preset_says_its_level_and_in_one_line_what_it_is():
    assert len(FILES) == 20 and len(AGGREGATORS) == 10
    for name, path in FILES.items():
        first, *rest = path.read_text(encoding="utf-8").splitlines()
        assert first.startswith("# ") and any(line.startswith("level: ") for line in rest), name
        assert name in ("sum", "static") or any(c.isdigit() for c in first), f"{name} names no paper"
        made = weighting(name)
        assert isinstance(made, Weighting)
        assert made.level == ("parameters" if name in AGGREGATORS or name == "gradnorm" else "loss")
        assert made.scalar == (made.level == "loss")
        assert NODES[name].level == made.level


@pytest.mark.parametrize(("name", "level"), [case for case in CASES if case[0] not in RANDOM])
def test_another_order_of_tasks_gives_the_same_weights(name, level):
    found = []
    for names in ("abc", "cab"):
        made, model = weighting(name, level, names), Tiny(names)
        optimizer = optimizer_of(made, model)
        found.append(([step(made, model, optimizer, i) for i in range(5)], model.state_dict()))
    for one, other in zip(found[0][0], found[1][0], strict=True):
        assert list(one) == ["a", "b", "c"] and list(other) == ["c", "a", "b"]
        assert {k: other[k] for k in one} == pytest.approx(one, rel=2e-3, abs=1e-4)
    for key, tensor in found[0][1].items():
        torch.testing.assert_close(found[1][1][key], tensor, rtol=1e-3, atol=1e-4)


@every_case
def test_a_task_that_is_absent_is_left_out(name, level):
    made, model = weighting(name, level), Tiny()
    optimizer = optimizer_of(made, model)
    for number, without in enumerate(
        ["", "b", "ac", "b", "", "a", "", ""]
    ):  # b has no loss in the second of four epochs
        weights = step(made, model, optimizer, number, without)
        assert set(weights) == set("abc") - set(without)
        for task in "abc":
            gone = task in without
            assert (model.heads[task].weight.grad is None) == gone
        assert all(torch.isfinite(p).all() for p in [*model.parameters(), *made.parameters()])
        assert all(0 <= abs(w) < 100 for w in weights.values())


@every_case
def test_a_task_alone_has_its_plain_gradient(name, level):
    made, model = weighting(name, level), Tiny()
    made.begin_step()
    features, losses = losses_of(model, *batch(), without="ac")
    weights = made.backward(losses, None, model.shared, features)
    found = gradients(model)
    model.zero_grad()
    losses_of(model, *batch(), without="ac")[1]["b"].backward()
    if name in PLAIN_ALONE:
        assert weights == {"b": pytest.approx(1)}
    for key, expected in gradients(model).items():
        if expected is None:
            assert found[key] is None
        else:
            torch.testing.assert_close(found[key], weights["b"] * expected, rtol=1e-5, atol=1e-7)


@every_case
def test_without_losses_there_are_the_terms_and_without_terms_nothing(name, level):
    made, model = weighting(name, level), Tiny()
    made.begin_step()
    features, _ = model(batch()[0])
    assert made.backward({}, None, model.shared, features) == {}
    assert all(p.grad is None for p in model.parameters())
    assert made.backward({}, features.square().sum(), model.shared, features) == {}
    made.after_step({})
    found = gradients(model.encoder)
    model.zero_grad()
    model(batch()[0])[0].square().sum().backward()
    for key, expected in gradients(model.encoder).items():
        torch.testing.assert_close(found[key], expected)
    assert model.heads["a"].weight.grad is None


@every_case
def test_a_frozen_encoder_leaves_heads_their_gradient(name, level):
    made, model = weighting(name, level), Tiny()
    model.encoder.requires_grad_(False)
    optimizer = optimizer_of(made, model)
    for number in range(3):
        weights = step(made, model, optimizer, number)
    x, y = batch(2)
    head = copy.deepcopy(model.heads["a"])
    assert model.encoder[0].weight.grad is None and torch.isfinite(head.weight).all() and len(weights) == 3
    if name in AGGREGATORS:
        assert weights == dict.fromkeys("abc", 1.0)
        made.begin_step()
        model.zero_grad()
        features, losses = losses_of(model, x, y)
        made.backward(losses, None, [], features)
        expected = torch.autograd.grad(losses_of(model, x, y)[1]["a"], model.heads["a"].weight)[0]
        torch.testing.assert_close(model.heads["a"].weight.grad, expected)


@pytest.mark.parametrize("name", ["sum", "static", "dwa", "rlw", "uncertainty", "imtl_l"])
def test_pieces_of_a_batch_add_up_to_the_batch(name):
    found = []
    for pieces in (1, 2):
        made, model = weighting(name), Tiny()
        optimizer = optimizer_of(made, model)
        torch.manual_seed(1)
        for number in range(6):
            step(made, model, optimizer, number, pieces=pieces)
        found.append({**model.state_dict(), **dict(made.named_parameters())})
    for key, tensor in found[0].items():
        torch.testing.assert_close(found[1][key], tensor, rtol=1e-4, atol=1e-6)


@every_case
def test_two_pieces_are_two_calls_whose_gradients_add_up(name, level):
    made, model = weighting(name, level), Tiny()
    x, y = batch()
    for number in range(2):
        optimizer = optimizer_of(made, model)
        step(made, model, optimizer, number, pieces=2)
    before = gradients(model)
    torch.manual_seed(3)
    features, losses = losses_of(model, x[:4], {k: v[:4] for k, v in y.items()}, 0.5)
    made.begin_step()
    was = copy.deepcopy(made.get_extra_state()) if hasattr(made, "memory") else None
    made.backward(losses, None, model.shared, features)
    both = gradients(model)
    model.zero_grad()
    if was is not None:
        made.set_extra_state(was)
    torch.manual_seed(3)
    features, losses = losses_of(model, x[:4], {k: v[:4] for k, v in y.items()}, 0.5)
    made.backward(losses, None, model.shared, features)
    for key, alone in gradients(model).items():
        torch.testing.assert_close(both[key], before[key] + alone, rtol=1e-4, atol=1e-6)


@every_case
def test_bf16_features_come_near_to_full_precision(name, level):
    found = []
    for bf16 in (False, True):
        made, model = weighting(name, level), Tiny()
        made.begin_step()
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            features, losses = losses_of(model, *batch())
        assert features.dtype == (torch.bfloat16 if bf16 else torch.float32)
        weights = made.backward(losses, features.float().square().mean(), model.shared, features)
        assert all(p.grad.dtype == torch.float32 for p in model.parameters())
        flat = torch.cat([p.grad.flatten() for p in model.parameters()])
        found.append((torch.tensor(list(weights.values())), flat))
    for exact, rough in zip(*found, strict=True):
        assert torch.cosine_similarity(exact, rough, dim=0) > 0.99
        assert (exact.norm() / rough.norm()).item() == pytest.approx(1, abs=0.1)


@every_case
def test_a_resume_after_any_step_goes_on_to_the_bit(name, level, tmp_path):
    plan = [(i, "b" if i in (1, 4) else "a" if i == 2 else "", 2 if i == 3 else 1) for i in range(6)]
    settings = {"update_every": 2} if name in AGGREGATORS else {}

    def fresh():
        made, model = weighting(name, level, **settings), Tiny()
        return made, model, optimizer_of(made, model)

    def content(parts):
        return [part.state_dict() for part in parts]

    torch.manual_seed(7)
    parts = fresh()
    for i, planned in enumerate(plan):
        step(*parts, *planned)
        checkpoint.save(tmp_path / str(i), {"parts": content(parts)})
    expected = content(parts)
    for i in range(len(plan) - 1):
        parts = fresh()
        torch.rand(5)
        saved = checkpoint.load(tmp_path / str(i))  # read as data, with the random state put back
        for part, state in zip(parts, saved["parts"], strict=True):
            part.load_state_dict(state)
        for planned in plan[i + 1 :]:
            step(*parts, *planned)
        torch.testing.assert_close(content(parts), expected, rtol=0, atol=0)


def test_identical_tasks_equal_one_with_k_times_the_loss():
    for made in (Sum(tasks=tasks_named("acd")), Static(weights=[1, 1, 1], tasks=tasks_named("acd"))):
        model = Tiny("a")
        features, losses = losses_of(model, *batch())
        made.backward(dict.fromkeys("acd", losses["a"]), None, model.shared, features)
        found = gradients(model)
        model.zero_grad()
        (3 * losses_of(model, *batch())[1]["a"]).backward()
        for key, expected in gradients(model).items():
            torch.testing.assert_close(found[key], expected)


def test_a_task_weight_that_would_be_passed_over_is_refused():
    tasks = tasks_named()
    tasks["c"].weight = 2.0
    for name, node in NODES.items():
        if name in ("static", "stch"):
            continue
        with pytest.raises(ConfigError, match=r"Found dataset.tasks.c.weight=2.0: use weighting=static"):
            build(node, "weighting", tasks=tasks, steps_per_epoch=2)

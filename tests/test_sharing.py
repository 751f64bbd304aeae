"""How tasks share the encoder: names, shapes, what is shared and what not, and which backbones go with which sharing."""

import copy

import pytest
import torch
from sharings import OUTPUTS, OWN, SHARINGS, encoder_of, images, made, original
from torch import nn

from tlmtl.errors import ConfigError
from tlmtl.models.by_task import ByTask
from tlmtl.models.encoder import encode
from tlmtl.sharing.base import fresh

torch.set_num_threads(1)
OF_STAGES = ["cross_stitch", "mtan"]
FAMILIES = ["small_cnn", "torchvision/resnet18", "timm/resnet18"]


def first_parts(model: nn.Module) -> set[str]:
    return {name.split(".")[0] for name, _ in model.named_parameters()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sharing", SHARINGS)
def test_outputs_names_and_branches(sharing, family):
    channels = 1 if family == "small_cnn" else 3
    model = made(sharing, encoder_of(family, channels))
    layer = original(family, channels).blocks[1]
    expected = encode(original(family, channels).module.eval(), images(channels), [layer])
    output = model.eval()(images(channels), list(OUTPUTS), [layer])
    assert {task: tuple(head.shape) for task, head in output.heads.items()} == {t: (4, n) for t, n in OUTPUTS.items()}
    assert all(head.std() > 0 for head in output.heads.values())
    added = {"hard": set(), "none": set()}.get(sharing, {"shared"})
    assert first_parts(model) == {"backbone", "heads"} | added
    assert {n.split(".")[1] for n, _ in model.named_parameters() if n.startswith("heads.")} == set(OUTPUTS)
    assert model.one_feature == (sharing == "hard")
    everyone = {task: [task] for task in OUTPUTS} if sharing == "none" else {"": list(OUTPUTS)}
    assert model.branches() == everyone
    assert list(output.own) == (list(OUTPUTS) if sharing in OWN else [])
    assert len(output.encoders()) == (3 if sharing in OWN else 1)
    for task in OUTPUTS:
        one = output.of(task)
        # All encoders are copies of one, so that every mixture of their maps is that map.
        torch.testing.assert_close(one.features, expected.features, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one.layers[layer], expected.layers[layer], rtol=1e-4, atol=1e-5)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("sharing", SHARINGS)
def test_only_what_is_asked_for(sharing):
    model = made(sharing).eval()
    whole = model(images(), list(OUTPUTS))
    for tasks in (["sum"], ["left", "right"], []):
        some = model(images(), tasks)
        assert list(some.heads) == tasks
        for task in tasks:
            torch.testing.assert_close(some.heads[task], whole.heads[task])
            assert not torch.equal(model(images(seed=1), tasks).heads[task], some.heads[task])
        assert some.features.shape == (4, 64)
    assert list(made("none")(images(), ["left"]).own) == ["left"]


@pytest.mark.parametrize("height", [8, 13, 37])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sharing", SHARINGS)
def test_odd_sizes_and_single_examples(sharing, channels, height):
    model = made(sharing, encoder_of(channels=channels))
    assert model.eval()(images(channels, 1, height, 29), ["left"]).heads["left"].shape == (1, 10)
    output = model.train()(images(channels, 2, height, 29), list(OUTPUTS))
    assert sum(head.isfinite().sum() for head in output.heads.values()) == 2 * 21


@pytest.mark.parametrize("sharing", SHARINGS)
def test_a_task_more_leaves_the_others_as_they_were(sharing):
    few, many = (made(sharing, tasks=tasks).state_dict() for tasks in (("left", "sum"), ("a", "left", "sum", "z")))
    common = {name for name in few if few[name].shape == many[name].shape}
    assert {name for name in few if name not in common} <= {f"shared.{i}.weight" for i in range(3)} | {
        "shared.0.gate.weight"
    }
    assert all(torch.equal(few[name], many[name]) for name in common)


@pytest.mark.parametrize("sharing", SHARINGS)
def test_any_name_a_column_may_have(sharing):
    names = ("type", "keys", "training", "a.b", "forward", "0")
    model = made(sharing, tasks=names)
    assert list(model(images(), names).heads) == list(names)
    other = made(sharing, tasks=names)
    other.load_state_dict({name: tensor + 1 for name, tensor in model.state_dict().items()})
    assert torch.equal(other.heads["a.b"].linear.bias, model.heads["a.b"].linear.bias + 1)
    assert list(copy.deepcopy(model)(images(), ["type"]).heads) == ["type"]


@pytest.mark.parametrize("sharing", SHARINGS)
def test_the_order_of_tasks_does_not_matter(sharing):
    """A file lists them by name."""
    model, other = made(sharing), made(sharing, tasks=sorted(OUTPUTS))
    generator = torch.Generator().manual_seed(1)
    state = {
        n: t + torch.rand(t.shape, generator=generator) if t.is_floating_point() else t
        for n, t in model.state_dict().items()
    }
    for one in (model, other):
        one.load_state_dict(state)
    first, second = (one.eval()(images(), list(OUTPUTS)).heads for one in (model, other))
    for task in OUTPUTS:
        torch.testing.assert_close(first[task], second[task])


# none


@pytest.mark.parametrize("training", [True, False])
def test_separate_models_are_those_of_the_tasks_alone(training):
    together = made("none").train(training)
    output = together(images(), list(OUTPUTS), ["block2"])
    for task in OUTPUTS:
        alone = made("hard", tasks=[task]).train(training)
        expected = alone(images(), [task], ["block2"])
        assert torch.equal(output.heads[task], expected.heads[task])
        assert torch.equal(output.of(task).features, expected.features)
        assert torch.equal(output.of(task).layers["block2"], expected.layers["block2"])
        for name, tensor in alone.backbone.state_dict().items():  # running statistics too
            assert torch.equal(tensor, together.backbone[task].state_dict()[name])


def touched(model: nn.Module, task: str) -> set[str]:
    """Parameters that the loss of a task has a gradient for."""
    model.zero_grad()
    model.train()(images(), list(OUTPUTS)).heads[task].square().sum().backward()
    return {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


@pytest.mark.parametrize("task", OUTPUTS)
@pytest.mark.parametrize("sharing", SHARINGS)
def test_what_a_task_trains(sharing, task):
    model = made(sharing)
    names = {name for name, _ in model.named_parameters()}
    found = touched(model, task)
    assert {name for name in names if name.startswith(f"heads.{task}.")} <= found
    assert not any(name.startswith("heads.") and not name.startswith(f"heads.{task}.") for name in found)
    backbones = {name.split(".")[1] for name in found if name.startswith("backbone.")}
    if sharing == "none":
        assert backbones == {task}
    elif sharing == "cross_stitch":
        assert backbones == set(OUTPUTS) and {f"shared.{i}.weight" for i in range(3)} <= found
    else:
        assert backbones == {"block1", "block2", "block3"}
    others = {t for t in OUTPUTS if t != task}
    if sharing == "mtan":
        assert {name.split(".")[1] for name in found if name.startswith("shared.")} == {task}
    if sharing == "mmoe":
        assert not any(name.startswith(f"shared.gates.{other}.") for name in found for other in others)
        assert f"shared.gates.{task}.weight" in found and any(name.startswith("shared.experts.") for name in found)
    if sharing == "ple":  # others' experts reach a task through the shared part of the first level alone
        assert not any(
            name.startswith((f"shared.1.own.{o}.", f"shared.1.gates.{o}.")) for name in found for o in others
        )
        assert {f"shared.0.gates.{task}.weight", "shared.0.gate.weight"} <= found


def test_modules_by_task_and_fresh_ones():
    modules = ByTask({"b": nn.Linear(1, 2), "a": nn.Linear(1, 3)})
    assert list(modules) == ["b", "a"] and len(modules) == 2 and modules["a"].out_features == 3
    torch.manual_seed(3)
    first, between, again = fresh("x", lambda: torch.rand(2)), torch.rand(2), fresh("x", lambda: torch.rand(2))
    torch.manual_seed(3)
    assert torch.equal(first, again) and torch.equal(between, torch.rand(2))
    assert not torch.equal(first, fresh("y", lambda: torch.rand(2)))
    torch.manual_seed(4)
    assert not torch.equal(first, fresh("x", lambda: torch.rand(2)))


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("family", ["torchvision/vit_b_16", "timm/vit_tiny_patch16_224"])
def test_a_transformer_has_no_stages(family, sharing):
    if sharing not in OF_STAGES:
        heads = made(sharing, encoder_of(family)).eval()(images(3, 1, 32, 32), ["left"]).heads
        assert heads["left"].shape == (1, 10)
        return
    name = original(family).name
    with pytest.raises(
        ConfigError, match=rf"'sharing={sharing}' .* {name} \(VisionTransformer\) cannot be cut .* mmoe or ple"
    ):
        made(sharing, encoder_of(family))

"""How tasks share the encoder: what each sharing computes, what it shares and what not, and which backbones it goes with."""

import copy
from functools import cache

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from tlmtl.config import build
from tlmtl.errors import ConfigError
from tlmtl.models.by_task import ByTask
from tlmtl.models.encoder import Encoder, encode
from tlmtl.models.heads import LinearHead
from tlmtl.models.small_cnn import small_cnn
from tlmtl.models.stages import stages
from tlmtl.models.timm import timm_model
from tlmtl.models.torchvision import torchvision_model
from tlmtl.presets import packaged_folder, presets
from tlmtl.sharing.base import fresh
from tlmtl.sharing.cross_stitch import Stitch
from tlmtl.sharing.experts import Gate, mix

torch.set_num_threads(1)
SHARINGS = [preset.name for preset in presets("sharing", [packaged_folder()])]
OF_STAGES = ["cross_stitch", "mtan"]
OWN = ["none", "cross_stitch"]  # an encoder for each task
OUTPUTS = {"right": 10, "left": 10, "sum": 1}
FAMILIES = ["small_cnn", "torchvision/resnet18", "timm/resnet18"]


@cache
def original(family: str, channels: int = 1) -> Encoder:
    torch.manual_seed(0)
    if family == "small_cnn":
        return small_cnn(width=4, pool=2, channels=channels)
    library, name = family.split("/")
    return (torchvision_model if library == "torchvision" else timm_model)(name, 32)


def encoder_of(family: str = "small_cnn", channels: int = 1) -> Encoder:
    encoder = copy.copy(original(family, channels))
    encoder.module = copy.deepcopy(encoder.module)
    return encoder


def made(sharing: str, encoder: Encoder | None = None, tasks=tuple(OUTPUTS), **settings) -> nn.Module:
    """A model of the packaged config, its heads drawn by their names."""
    node = OmegaConf.merge(OmegaConf.load(packaged_folder() / "sharing" / f"{sharing}.yaml"), settings)
    encoder = encoder or encoder_of()
    torch.manual_seed(0)
    heads = {
        task: fresh(task, lambda task=task: LinearHead(encoder.feature_size, OUTPUTS.get(task, 2), "default"))
        for task in tasks
    }
    return build(node, "sharing", encoder=encoder, heads=heads)


def images(channels=1, n=4, height=16, width=28, seed=0):
    return torch.randn(n, channels, height, width, generator=torch.Generator().manual_seed(seed))


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


# cross_stitch


@pytest.mark.parametrize("per_channel", [True, False])
def test_stitches_that_do_not_mix_are_separate_models(per_channel):
    stitched = made("cross_stitch", self_weight=1.0, per_channel=per_channel)
    separate = made("none")
    for task, scale in zip(OUTPUTS, (1.0, 1.1, 1.2), strict=True):  # encoders that differ
        for model in (stitched, separate):
            model.backbone[task].block1[0].weight.data *= scale
    first, second = (model.train()(images(), list(OUTPUTS)) for model in (stitched, separate))
    for task in OUTPUTS:
        assert torch.equal(first.heads[task], second.heads[task])


@pytest.mark.parametrize("per_channel", [True, False])
def test_stitches_mix(per_channel):
    model = made("cross_stitch", per_channel=per_channel).eval()
    before = model(images(), list(OUTPUTS)).heads
    with torch.no_grad():
        model.backbone["left"].block1[0].weight.mul_(2)
    after = model(images(), list(OUTPUTS)).heads
    assert all((before[task] - after[task]).abs().max() > 1e-3 for task in OUTPUTS)


def test_a_stitch_is_the_papers_equation():
    maps = torch.randn(2, 3, 4, 5, 6)  # two tasks, four channels
    stitch = Stitch(2, 1, 0.9)
    torch.testing.assert_close(stitch(maps)[0], 0.9 * maps[0] + 0.1 * maps[1])
    torch.testing.assert_close(stitch(maps)[1], 0.1 * maps[0] + 0.9 * maps[1])
    stitch = Stitch(2, 4, 0.9)
    with torch.no_grad():
        stitch.weight.copy_(torch.arange(16.0))  # alpha_ijc = 8 i + 4 j + c
    expected = torch.stack([(8 + c) * maps[0, :, c] + (12 + c) * maps[1, :, c] for c in range(4)], 1)
    torch.testing.assert_close(stitch(maps)[1], expected)
    torch.testing.assert_close(Stitch(5, 3, 0.6).weight.view(5, 5, 3).sum(1), torch.ones(5, 3))
    assert Stitch(3, 7, 0.9).weight.ndim == 1  # not decayed
    assert torch.equal(Stitch(1, 4, 0.9)(maps[:1]), maps[:1])
    with pytest.raises(ConfigError, match=r"'sharing.self_weight' should be a share from 0 to 1. Found 2"):
        made("cross_stitch", self_weight=2.0)


# mmoe, ple


def alike(experts) -> None:
    """Make all experts the first one."""
    for expert in experts:
        expert.load_state_dict(experts[0].state_dict())


def test_gates_sum_to_one():
    gate = Gate(8, 5)
    weights = gate(10 * torch.randn(7, 8))
    assert weights.shape == (7, 5) and (weights > 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(7))
    outputs = list(torch.randn(5, 7, 3))
    torch.testing.assert_close(mix(weights, outputs)[2], sum(weights[2, e] * outputs[e][2] for e in range(5)))


def test_one_expert_is_that_expert():
    model = made("mmoe", experts=1).eval()
    output = model(images(), list(OUTPUTS))
    mixed = model.shared.experts[0](output.features)
    assert all(torch.equal(output.heads[task], model.heads[task](mixed)) for task in OUTPUTS)


def test_experts_of_one_mind_are_that_expert():
    mmoe = made("mmoe").eval()
    alike(mmoe.shared.experts)
    output = mmoe(images(), list(OUTPUTS))
    mixed = mmoe.shared.experts[0](output.features)
    ple = made("ple").eval()
    for level in ple.shared:
        alike([*level.experts, *(expert for task in OUTPUTS for expert in level.own[task])])
    progressive = ple(images(), list(OUTPUTS))
    deep = ple.shared[1].experts[0](ple.shared[0].experts[0](progressive.features))
    assert mixed.std() > 0 and deep.std() > 0
    for task in OUTPUTS:
        torch.testing.assert_close(output.heads[task], mmoe.heads[task](mixed))
        torch.testing.assert_close(progressive.heads[task], ple.heads[task](deep))


def test_experts_mix_by_the_gate():
    model = made("mmoe", experts=3).eval()
    features = model(images(), []).features
    weights = model.shared.gates["left"](features)
    expected = sum(weights[:, [e]] * expert(features) for e, expert in enumerate(model.shared.experts))
    torch.testing.assert_close(model(images(), ["left"]).heads["left"], model.heads["left"](expected))
    level = made("ple", levels=1, own_experts=2, shared_experts=1).eval()
    assert level.shared[0].gate is None and level.shared[0].gates["sum"].weight.shape == (3, 64)
    experts = [*level.shared[0].own["sum"], *level.shared[0].experts]
    weights = level.shared[0].gates["sum"](features)
    expected = sum(weights[:, [e]] * expert(features) for e, expert in enumerate(experts))
    torch.testing.assert_close(level(images(), ["sum"]).heads["sum"], level.heads["sum"](expected))


@pytest.mark.parametrize(
    ("sharing", "key", "value"),
    [
        ("mmoe", "experts", 0),
        ("mmoe", "hidden", 0),
        ("ple", "levels", 0),
        ("ple", "own_experts", 0),
        ("mtan", "reduction", 0),
    ],
)
def test_numbers_out_of_range(sharing, key, value):
    with pytest.raises(ConfigError, match=rf"'sharing.{key}' should be 1 (to|or) .*Found 0"):
        made(sharing, **{key: value})


# mtan and stages


def test_masks_are_between_zero_and_one():
    model = made("mtan").eval()
    maps = [images()]
    for stage in range(3):
        maps.append(model.stages.run(model.backbone, stage, maps[-1]))
    attended = None
    for module, map in zip(model.attention("left"), maps[1:], strict=True):
        mask = module(map, attended)
        assert mask.shape == map.shape and 0 < mask.min() < mask.max() < 1
        attended = mask * map
    expected = model.heads["left"](model.backbone.pool(attended))
    assert torch.equal(model(images(), ["left"]).heads["left"], expected)
    with torch.no_grad():  # a mask that lets everything through is no mask
        for module in model.attention("left"):
            module.mask[4].weight.zero_(), module.mask[4].bias.fill_(100)
    output = model(images(), ["left"])
    assert torch.equal(output.heads["left"], model.heads["left"](output.features))


CUT = {
    "small_cnn": (["block1", "block2", "block3"], [4, 8, 16], ["pool"]),
    "torchvision/resnet18": (["layer1", "layer2", "layer3", "layer4"], [64, 128, 256, 512], ["avgpool", "fc"]),
    "timm/resnet18": (["layer1", "layer2", "layer3", "layer4"], [64, 128, 256, 512], ["global_pool", "fc"]),
    "timm/tf_efficientnet_lite0": (
        ["blocks.0", "blocks.1", "blocks.2", "blocks.4", "bn2"], [16, 24, 40, 112, 1280], ["global_pool", "classifier"]
    ),
    "torchvision/mobilenet_v2": (
        [f"features.{i}" for i in (1, 3, 6, 13, 18)], [16, 24, 32, 96, 1280], ["classifier"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", CUT)
def test_stages_are_the_backbone(family):
    encoder, (last, channels, tail) = encoder_of(family), CUT[family]
    state = copy.deepcopy(encoder.module.state_dict())
    cut = stages(encoder, "mtan")
    assert ([part[-1] for part in cut.parts], cut.channels, cut.tail) == (last, channels, tail)
    assert all(torch.equal(tensor, state[name]) for name, tensor in encoder.module.state_dict().items())
    for size in (64, 97):
        map = whole = images(1 if family == "small_cnn" else 3, 2, size, size)
        with torch.no_grad():
            for stage in range(len(cut)):
                map = cut.run(encoder.module.eval(), stage, map)
                assert map.shape[1] == channels[stage]
            assert torch.equal(cut.features(encoder.module, map), encoder.module(whole))


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


class Skips(nn.Sequential):
    """A row of blocks that is none: the first one's map comes back at the end."""

    def forward(self, input):
        first = self[0](input)
        return self[2](self[1](first) + first)


def test_what_only_looks_like_a_row_is_refused():
    parts = (
        nn.Conv2d(1, 4, 3, padding=1),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )
    for kind in (nn.Sequential, Skips):
        encoder = Encoder(kind(*parts), 4, original("small_cnn").preprocess, ["0", "1"])
        if kind is Skips:
            with pytest.raises(ConfigError, match=r"this model \(Skips\) cannot be cut"):
                stages(encoder, "mtan")
        else:
            assert stages(encoder, "mtan").parts == [["0", "1"]]


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

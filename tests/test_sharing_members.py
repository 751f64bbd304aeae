"""What cross-stitch, MMoE, PLE and MTAN compute, against their papers' equations."""

import pytest
import torch
from sharings import OUTPUTS, images, made

from tlmtl.errors import ConfigError
from tlmtl.sharing.cross_stitch import Stitch
from tlmtl.sharing.experts import Gate, mix

torch.set_num_threads(1)

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


# mtan


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

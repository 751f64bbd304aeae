"""Model families behind one interface, and freezing: proved on parameters and buffers for every family and strategy."""

import copy
import math
from contextlib import nullcontext
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tlmtl
from tlmtl.config import build
from tlmtl.data.images import ArrayImages
from tlmtl.data.streams import Stream, plan
from tlmtl.errors import ConfigError
from tlmtl.loop import fit
from tlmtl.models.digest import hash_state
from tlmtl.models.encoder import Encoder, encode
from tlmtl.models.heads import LinearHead
from tlmtl.models.small_cnn import Halving, small_cnn
from tlmtl.models.timm import timm_model
from tlmtl.models.torchvision import torchvision_model
from tlmtl.optim import Constant, Groups, Units
from tlmtl.presets import packaged_folder, presets
from tlmtl.sharing.hard import HardSharing
from tlmtl.strategies.rules import match, parse_rules
from tlmtl.tasks.classification import Classification
from tlmtl.terms.base import Context
from tlmtl.training import Setup, State, Watch
from tlmtl.weighting.static import Sum

torch.set_num_threads(1)
STEPS = 4
STRATEGIES = [preset.name for preset in presets("strategy", [packaged_folder()])]
# family -> (features, how many blocks, the first and the last)
FAMILIES = {
    "small_cnn": (128, 3, "block1", "block3"),
    "torchvision/resnet18": (512, 6, "conv1", "layer4"),
    "torchvision/vgg11_bn": (4096, 18, "features.0", "classifier.3"),
    "torchvision/mobilenet_v3_small": (1024, 14, "features.0", "classifier.0"),
    "torchvision/convnext_tiny": (768, 9, "features.0", "classifier.0"),
    "torchvision/vit_b_16": (768, 14, "conv_proj", "encoder.ln"),
    "timm/resnet18": (512, 6, "conv1", "layer4"),
    "timm/vit_tiny_patch16_224": (192, 14, "patch_embed", "norm"),
}


@cache
def encoder_of(family: str) -> Encoder:
    """With random parameters, for images of 32 pixels."""
    torch.manual_seed(0)
    if family == "small_cnn":
        return small_cnn(channels=3)
    library, name = family.split("/")
    return (torchvision_model if library == "torchvision" else timm_model)(name, 32)


@cache
def strategy_of(name: str):
    return tlmtl.compose([f"strategy={name}"]).strategy


@pytest.mark.parametrize("family", FAMILIES)
def test_features_blocks_and_layers(family):
    encoder, (size, blocks, first, last) = encoder_of(family), FAMILIES[family]
    assert (encoder.feature_size, len(encoder.blocks)) == (size, blocks)
    assert (encoder.blocks[0], encoder.blocks[-1]) == (first, last)
    covered = {n for n, _ in encoder.module.named_parameters() if n.startswith(tuple(f"{b}." for b in encoder.blocks))}
    outside = {n for n, _ in encoder.module.named_parameters()} - covered
    assert outside <= {"class_token", "cls_token", "pos_embed", "encoder.pos_embedding"}
    order: list[str] = []
    handles = [
        encoder.module.get_submodule(name).register_forward_hook(lambda *_, name=name: order.append(name))
        for name in encoder.blocks
    ]
    with torch.no_grad():
        output = encode(encoder.module.eval(), torch.randn(2, 3, 32, 32), [last, first])
    for handle in handles:
        handle.remove()
    assert order == encoder.blocks  # named from the input to the features
    assert output.features.shape == (2, size) and output.features.std() > 0
    assert list(output.layers) == [first, last] and all(len(layer) == 2 for layer in output.layers.values())
    assert not any(module._forward_hooks for module in encoder.module.modules())


@pytest.mark.parametrize("init", ["near_zero", "default"])
def test_new_heads_start_near_zero(init):
    torch.manual_seed(0)
    head = LinearHead(512, 50, init)
    expected = 0.01 if init == "near_zero" else 1 / math.sqrt(3 * 512)
    assert head.linear.weight.std().item() == pytest.approx(expected, rel=0.05)
    assert (head.linear.bias.abs().max().item() == 0) == (init == "near_zero")
    with pytest.raises(ConfigError, match=r"'head.init' should be near_zero or default. Found 'zero'"):
        LinearHead(4, 2, "zero")


def test_unknown_names_are_told_with_the_nearest():
    with pytest.raises(ConfigError, match=r"torchvision has no classifier 'resnet81' .* Did you mean 'resnet18'\?"):
        torchvision_model("resnet81")
    with pytest.raises(ConfigError, match=r"timm has no model 'resnet18z' .* Did you mean 'resnet18"):
        timm_model("resnet18z")
    with pytest.raises(ConfigError, match=r"'model.image_size' should be 8 or more. Found 4"):
        small_cnn(image_size=4)


def small(family: str) -> Encoder:
    """A copy of the family's encoder with its largest parts cut down, as what freezing does is the same in all of them."""
    encoder = copy.copy(encoder_of(family))
    whole = encoder.module
    if family == "torchvision/vgg11_bn":
        parts = [nn.Linear(25088, 16), *whole.classifier[1:3], nn.Linear(16, 16), *whole.classifier[4:]]
        encoder.module = copy.deepcopy(
            nn.Sequential(whole.features, whole.avgpool, nn.Flatten(), nn.Sequential(*parts))
        )
        encoder.feature_size = 16
    elif family == "torchvision/vit_b_16":
        encoder.module = copy.deepcopy(whole, {id(whole.encoder.layers): whole.encoder.layers[:2]})
    elif family == "torchvision/convnext_tiny":
        encoder.module = copy.deepcopy(whole, {id(whole.features[5]): whole.features[5][:1]})
    else:
        encoder.module = copy.deepcopy(whole)
    return encoder


def prepared(family: str, strategy: str) -> tuple[Setup, dict[str, bool]]:
    """A run of STEPS steps on noise, and which parameters the strategy's rules freeze."""
    cfg, encoder, random = strategy_of(strategy), small(family), np.random.default_rng(0)
    images = ArrayImages(random.integers(0, 256, (8, 3, 32, 32), dtype=np.uint8))
    labels, there = torch.tensor([0, 1, 1, 1, 0, 1, 1, 0]), torch.ones(8, dtype=torch.bool)
    stream = Stream("train", images, torch.arange(8), {"t": labels}, {"t": there}, encoder.preprocess)
    tasks = {"t": Classification("t", ["a", "b"], ["accuracy"])}
    model = HardSharing(encoder, {"t": LinearHead(encoder.feature_size, 2)})
    rules = match(parse_rules(cfg.rules), [name for name, _ in model.named_parameters()])
    terms = {name: build(node, "term", f"term.{name}") for name, node in cfg.terms.items()}
    for term in terms.values():
        term.setup(Context(model, encoder, tasks, {}, True))
    groups = Groups(model, rules, Constant(), Units(4, 8, STEPS), list(terms.values()))
    source_model = copy.deepcopy(encoder.module).eval().requires_grad_(False) if strategy == "distill" else None
    setup = Setup(
        model, tasks, {"target": stream}, {"target": stream}, lambda epoch: plan({"target": 8}, 2, 0, epoch),
        Sum(tasks=tasks), terms, groups, groups.optimizer(torch.optim.AdamW, 1e-3, weight_decay=0.1),
        total=STEPS, steps_per_epoch=4, evaluate_every=1, checkpoint_every=1, seed=0,
        autocast=nullcontext, device=torch.device("cpu"), source_model=source_model,
    )  # fmt: skip
    return setup, {name: rule.frozen for name, rule in rules.items()}


def hashes(model: nn.Module) -> dict[str, str]:
    """Of each parameter and buffer."""
    return {name: hash_state({name: tensor}) for name, tensor in model.state_dict().items()}


class Look(Watch):
    """Hashes after each step."""

    def __init__(self, model):
        self.model, self.seen = model, [hashes(model)]

    def stepped(self, state, losses):
        self.seen.append(hashes(self.model))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_is_unchanged_to_the_bit_and_the_rest_changes(family, strategy):
    setup, frozen = prepared(family, strategy)
    look = Look(setup.model)
    fit(setup, State(), look)
    first, *_, last = look.seen
    changed = {name for name in first if first[name] != last[name]}
    parameters = dict(setup.model.named_parameters())
    buffers = set(first) - set(parameters)
    assert {name for name in frozen if frozen[name]} == set(parameters) - changed
    running = {name for name in buffers if name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    still = all(frozen[name] for name in frozen if name.startswith("backbone."))
    assert still == (strategy in ("linear_probe", "linear_probe_grid", "knn", "logistic"))  # whoever finds the head
    assert changed & buffers == (set() if still else running)
    kept = {id(p) for p in setup.optimizer.state}
    assert kept == {id(p) for name, p in parameters.items() if not frozen[name]}
    if strategy == "linear_probe":
        assert changed == {"heads.t.linear.weight", "heads.t.linear.bias"}
    if strategy == "staged":  # thaws after half the run
        backbone = [{name: h for name, h in seen.items() if name.startswith("backbone.")} for seen in look.seen]
        assert backbone[0] == backbone[1] == backbone[STEPS // 2] != backbone[STEPS // 2 + 1]
        assert look.seen[0]["heads.t.linear.weight"] != look.seen[1]["heads.t.linear.weight"]


@settings(deadline=None, max_examples=40)
@given(shape=st.tuples(*(st.integers(1, 9) for _ in range(4))), seed=st.integers(0, 99))
def test_halving_is_max_pooling_to_the_bit(shape, seed):
    """Values of which many are equal, so that ties are broken in the same way."""
    torch.manual_seed(seed)
    shape = (*shape[:2], shape[2] + 1, shape[3] + 1)
    input = torch.randn(shape).mul(2).round().requires_grad_()
    ours, theirs = Halving()(input), nn.MaxPool2d(2)(input)
    assert torch.equal(ours, theirs)
    gradient = torch.randn_like(theirs)
    assert torch.equal(torch.autograd.grad(ours, input, gradient)[0], torch.autograd.grad(theirs, input, gradient)[0])
    with torch.no_grad():
        assert torch.equal(Halving()(input), theirs)

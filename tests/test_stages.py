"""Backbones cut into stages: the row of stages is the backbone itself, and what is no such row is refused."""

import copy

import pytest
import torch
from torch import nn

from tlmtl.errors import ConfigError
from tlmtl.models.encoder import Encoder
from tlmtl.models.small_cnn import small_cnn
from tlmtl.models.stages import stages
from tlmtl.models.timm import timm_model
from tlmtl.models.torchvision import torchvision_model
from tlmtl.preprocess import Preprocess

torch.set_num_threads(1)


def encoder_of(family: str) -> Encoder:
    torch.manual_seed(0)
    if family == "small_cnn":
        return small_cnn(width=4, pool=2, channels=3)
    library, name = family.split("/")
    return (torchvision_model if library == "torchvision" else timm_model)(name, 32)


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
        map = whole = torch.randn(2, 3, size, size)
        with torch.no_grad():
            for stage in range(len(cut)):
                map = cut.run(encoder.module.eval(), stage, map)
                assert map.shape[1] == channels[stage]
            assert torch.equal(cut.features(encoder.module, map), encoder.module(whole))


class Skips(nn.Sequential):
    """A row of blocks that is none: the first one's map comes back at the end."""

    def forward(self, input):
        first = self[0](input)
        return self[2](self[1](first) + first)


class Drops(nn.Sequential):
    """A row of blocks, but for what it does in training."""

    def forward(self, input):
        return nn.functional.dropout(super().forward(input), 0.5, self.training)


def test_what_only_looks_like_a_row_is_refused():
    parts = (
        nn.Conv2d(1, 4, 3, padding=1),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )
    for kind in (nn.Sequential, Skips, Drops):
        encoder = Encoder(kind(*parts), 4, Preprocess(16, None, (0.5,), (0.5,)), ["0", "1"])
        if kind is nn.Sequential:
            assert stages(encoder, "mtan").parts == [["0", "1"]]
        else:
            with pytest.raises(ConfigError, match=rf"'sharing=mtan' .* this model \({kind.__name__}\) cannot be cut"):
                stages(encoder, "mtan")


@pytest.mark.parametrize("family", ["torchvision/swin_t", "torchvision/densenet121"])
def test_maps_of_another_kind_and_rows_with_more_between_them_are_refused(family):
    with pytest.raises(ConfigError, match=rf"{family} \(.*\) cannot be cut into stages. Use a chain of convolutions"):
        stages(encoder_of(family), "cross_stitch")

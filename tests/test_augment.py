"""Random crops and TrivialAugment: each sample on its own, all randomness from the generator, torchvision as the oracle."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import TrivialAugmentWide

from tlmtl.data.augment import AUGMENTATIONS, crop_flip
from tlmtl.data.streams import generator_for
from tlmtl.data.trivial_augment import BINS, _operations, _strengths, trivial_augment

torch.set_num_threads(1)
RANDOM = [name for name in AUGMENTATIONS if name != "none"]


def noise(n: int, channels: int = 3, height: int = 12, width: int = 9) -> torch.Tensor:
    random = np.random.default_rng(0)
    return torch.from_numpy(random.integers(0, 256, (n, channels, height, width), dtype=np.uint8))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", RANDOM)
def test_all_randomness_comes_from_the_generator(name, channels):
    images, before = noise(24, channels), torch.get_rng_state()
    first, second, other = (AUGMENTATIONS[name](images, generator_for(word)) for word in ("a", "a", "b"))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert first.shape == images.shape and first.dtype == torch.uint8
    assert torch.equal(images, noise(24, channels))


@pytest.mark.parametrize("name", RANDOM)
def test_samples_of_one_batch_differ(name):
    changed = AUGMENTATIONS[name](noise(1).repeat(32, 1, 1, 1), generator_for(0))
    different = {tuple(image.flatten().tolist()) for image in changed}
    assert len(different) >= (2 if name == "flip" else 20)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.integers(1, 3), st.integers(2, 20), st.integers(2, 20))
def test_a_crop_shows_nothing_that_was_not_there(seed, channels, height, width):
    images = noise(4, channels, height, width) // 2 + 50
    changed = crop_flip(images, generator_for(seed))
    assert changed.shape == images.shape
    for found, given_ in zip(changed.flatten(2).flatten(0, 1), images.flatten(2).flatten(0, 1), strict=True):
        assert given_.min() <= found.min() and found.max() <= given_.max()


def boxes(n: int) -> tuple[torch.Tensor, ...]:
    """Left, right, top and bottom (shares of the image) of n crops, read off two images that slope across."""
    size = 64
    slope = (torch.arange(size) + 0.5) / size * 255
    across = slope.expand(n, 2, size, size).clone()
    across[:, 1] = slope.view(-1, 1)
    seen = crop_flip(across.round().to(torch.uint8), generator_for("boxes")).float() / 255
    x, y = seen[:, 0, size // 2], seen[:, 1, :, size // 2]
    step = (x[:, 48] - x[:, 16]) / 32, (y[:, 48] - y[:, 16]) / 32  # away from the edges
    width, height = step[0] * size, step[1] * size
    return width, height, x[:, 16] + step[0] * 15.5, y[:, 16] + step[1] * 15.5


def test_boxes_have_the_areas_ratios_and_places_that_are_told():
    width, height, x, y = boxes(400)
    mirrored = width < 0
    assert 0.4 < mirrored.float().mean() < 0.6
    width = width.abs()
    area, ratio = width * height, width / height
    assert 0.48 < area.min() < 0.55 and 0.93 < area.max() < 1.02 and 0.7 < area.mean() < 0.78
    assert 0.73 < ratio.min() < 0.8 and 1.25 < ratio.max() < 1.37 and abs(ratio.log().mean()) < 0.03
    for middle, side in ((x, width), (y, height)):
        assert (middle - side / 2).min() > -0.02 and (middle + side / 2).max() < 1.02
        assert abs(middle.mean() - 0.5) < 0.02 and middle.std() > 0.03


def test_operations_and_strengths_are_torchvisions():
    theirs, mine = TrivialAugmentWide._AUGMENTATION_SPACE, _strengths()
    assert list(mine) == list(theirs) == list(_operations())
    for name, (strengths, signed) in theirs.items():
        values = strengths(BINS, 32, 32)
        assert mine[name] == ([0.0] * BINS if values is None else values.tolist(), signed)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", list(_operations()))
def test_each_operation_does_what_torchvisions_does(name, channels):
    oracle, operation = TrivialAugmentWide(), _operations()[name]
    values, signed = _strengths()[name]
    image = noise(1, channels, 40, 33)[0]
    for strength in values[::6] + ([-value for value in values[3::9]] if signed else []):
        expected = oracle._apply_image_or_video_transform(image, name, strength, oracle.interpolation, oracle._fill)
        assert torch.equal(operation(image, strength), expected), strength


def test_every_operation_is_drawn_evenly_in_both_directions(monkeypatch):
    drawn: list[tuple[str, float]] = []

    def noted(name):
        return lambda image, strength: drawn.append((name, strength)) or image

    monkeypatch.setattr("tlmtl.data.trivial_augment._operations", lambda: {name: noted(name) for name in _strengths()})
    trivial_augment(noise(1, 1, 2, 2).expand(14000, -1, -1, -1), generator_for("even"))
    names = [name for name, _ in drawn]
    assert all(850 < names.count(name) < 1150 for name in _strengths())
    turned = [strength for name, strength in drawn if name == "Rotate"]
    assert len({abs(strength) for strength in turned}) == BINS
    assert 0.4 < np.mean([strength < 0 for strength in turned]) < 0.6
    assert {strength for name, strength in drawn if name == "Posterize"} == {2, 3, 4, 5, 6, 7, 8}

"""`model=torchvision model.name=NAME`: every torchvision classifier, with random parameters until a source fills them."""

from typing import Any

from torch import Tensor, nn

from tlmtl.errors import ConfigError, folder_of_package, nearest
from tlmtl.models.encoder import Encoder, find_blocks, find_feature_size, find_memory_format
from tlmtl.preprocess import Preprocess


def torchvision_model(name: str, image_size: int | None = None, *, channels: int = 3) -> Encoder:
    """The backbone of a torchvision classifier: everything but the last linear layer.

    Pre-processing is that of the model's default weights; grey images are repeated to three channels.

    Arguments:
        name: as `torchvision.models.list_models(module=torchvision.models)` lists it.
        image_size: side of the images, where it is not to be the weights' own (convolutional models take any).
    """
    folder_of_package("torchvision", f"model.name={name}")
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        raise ConfigError(
            f"torchvision has no classifier '{name}' (model.name).{nearest(name, names)} Known: {', '.join(names)}."
        )
    weights: Any = models.get_model_weights(name).DEFAULT
    preprocess = weights_preprocess(weights, image_size)
    extra: dict[str, Any] = {"image_size": image_size} if name.startswith("vit_") and image_size else {}
    if name in ("googlenet", "inception_v3"):
        extra = {"aux_logits": False, "init_weights": False}
    module = models.get_model(name, weights=None, **extra)
    without_classifier(module)
    size = find_feature_size(module, preprocess, 3)

    def fetch(which: str) -> tuple[dict[str, Tensor], Preprocess]:
        entry = models.get_model_weights(name)[which]
        return entry.get_state_dict(progress=True, check_hash=True, weights_only=True), weights_preprocess(
            entry, image_size
        )

    return Encoder(
        module,
        size,
        preprocess,
        find_blocks(module),
        memory_format=find_memory_format(module),
        fetch=fetch,
        name=f"torchvision/{name}",
    )


def weights_preprocess(weights: Any, image_size: int | None) -> Preprocess:
    """What a torchvision weights entry says about its images, scaled to `image_size` when given."""
    preset = weights.transforms()
    resize, crop = preset.resize_size[0], preset.crop_size[0]
    if image_size:
        resize, crop = max(image_size, round(image_size * resize / crop)), image_size
    mode = preset.interpolation.value
    return Preprocess(resize, crop, tuple(preset.mean), tuple(preset.std), mode if mode == "bicubic" else "bilinear")


def without_classifier(module: nn.Module) -> str:
    """Replace the last linear layer (SqueezeNet's: the last convolution) by nothing. Returns its name."""
    layers = [n for n, m in module.named_modules() if isinstance(m, nn.Linear) and m.out_features == 1000]
    if layers:
        *_, last = layers
        module.set_submodule(last, nn.Identity())
        return last
    *_, last = [n for n, m in module.named_modules() if isinstance(m, nn.Conv2d) and m.out_channels == 1000]
    module.set_submodule(last, nn.Identity())
    return last

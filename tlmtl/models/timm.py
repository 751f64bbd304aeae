"""`model=timm model.name=NAME`: every timm model, with random parameters until a source fills them."""

from typing import Any

from torch import Tensor

from tlmtl.errors import ConfigError, folder_of_package, nearest
from tlmtl.models.encoder import Encoder, find_blocks, find_feature_size, find_memory_format
from tlmtl.preprocess import Preprocess


def timm_model(name: str, image_size: int | None = None, *, channels: int = 3) -> Encoder:
    """The backbone of a timm model, pooled features before its classifier.

    Pre-processing is that of the model's pre-trained weights; grey images are repeated to three channels.

    Arguments:
        name: as `timm.list_models()` lists it, with a weights tag (`vit_tiny_patch16_224.augreg_in21k`) if you like.
        image_size: side of the images, where it is not to be the weights' own.
    """
    folder_of_package("timm", f"model.name={name}")
    import timm

    if not timm.is_model(name):
        names = timm.list_models()
        raise ConfigError(
            f"timm has no model '{name}' (model.name).{nearest(name, names)} "
            f"It has {len(names)}: python -c \"import timm; print(timm.list_models('*vit*'))\"."
        )
    fixed: dict[str, Any] = {"img_size": image_size} if image_size else {}
    try:
        module = timm.create_model(name, pretrained=False, num_classes=0, **fixed)
    except TypeError:  # convolutional models take any size and no such argument
        module = timm.create_model(name, pretrained=False, num_classes=0)
    preprocess = timm_preprocess(module, image_size)

    def fetch(tag: str) -> tuple[dict[str, Tensor], Preprocess]:
        full = name if tag == "DEFAULT" else f"{name.split('.')[0]}.{tag}"
        filled = timm.create_model(full, pretrained=True, num_classes=0)
        return filled.state_dict(), timm_preprocess(filled, image_size)

    size = find_feature_size(module, preprocess, 3)
    return Encoder(
        module,
        size,
        preprocess,
        find_blocks(module),
        memory_format=find_memory_format(module),
        fetch=fetch,
        name=f"timm/{name.split('.')[0]}",
    )


def timm_preprocess(module: Any, image_size: int | None) -> Preprocess:
    """What timm's data config of the model says about its images."""
    from timm.data import resolve_data_config

    config = resolve_data_config({}, model=module)
    side = image_size or config["input_size"][-1]
    interpolation = "bicubic" if config["interpolation"] == "bicubic" else "bilinear"
    return Preprocess(
        max(side, int(side / config["crop_pct"])), side, tuple(config["mean"]), tuple(config["std"]), interpolation
    )

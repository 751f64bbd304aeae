"""The images of a run's data set, found again through the run's own config."""

import io
from collections.abc import Iterable
from typing import Any

from tlmtl.errors import TlmtlError
from tlmtl.report.folders import Run
from tlmtl.schema import RECONSTRUCTION

SIDE = 96  # pixels of the shorter side, at most


def read(
    run: Run, task: str, ids: Iterable[str], data_hash: str | None, allow: list[str]
) -> tuple[dict[str, bytes], str]:
    """PNG files of the test examples `ids` of `task`, by id; and why there are none.

    Nothing is downloaded, and no package is imported for the config, which may be a stranger's, but tlmtl's own and those
    of `allow`.
    """
    try:
        return _pictures(run, task, ids, data_hash, allow)
    except TlmtlError as error:
        return {}, f"the data set cannot be read: {str(error).splitlines()[0]}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        return {}, f"the data set cannot be read: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _pictures(
    run: Run, task: str, ids: Iterable[str], data_hash: str | None, allow: list[str]
) -> tuple[dict[str, bytes], str]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from tlmtl import files
    from tlmtl.config import Config, check_dataset
    from tlmtl.data.labels import with_reconstruction
    from tlmtl.data.read import read

    path = run.path / "config.yaml"
    if not path.is_file():
        return {}, "its folder has no config.yaml"
    try:
        cfg = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(path))
        _stay_offline(cfg.dataset)
        part, node = _part(cfg.dataset, task)
        common, family = check_dataset(with_reconstruction(node), "dataset")
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError) as error:
        return {}, f"its config.yaml cannot be read: {(str(error).splitlines() or [''])[0]}"
    if not part and task not in common.tasks:
        return {}, f"its data set has no task {task} any more"
    examples, splits, found = read(common, family, allow, files.cache_folder(cfg.output.cache))
    if data_hash and found != data_hash:
        return {}, "the data set has changed since the run"
    where = {part + examples.ids[at]: int(at) for at in splits["test"]}
    return {name: _png(examples.images.original(where[name])) for name in ids if name in where}, ""


def _part(node: Any, task: str) -> tuple[str, Any]:
    """What the ids of the data set that has `task` begin with, and its node: of a joint one, that of a part."""
    for name, part in (node.get("parts") or {}).items():
        if task in [f"{name}_{one}" for one in (*part.tasks, RECONSTRUCTION)]:
            return f"{name}/", part
    return "", node


def _stay_offline(node: Any) -> None:
    """`download: false` wherever a data set may fetch itself: making a page fetches nothing."""
    from omegaconf import OmegaConf

    if OmegaConf.is_dict(node):
        for key in list(node):
            if key == "download":
                node[key] = False
            elif not OmegaConf.is_missing(node, key):
                _stay_offline(node[key])


def _png(pixels: Any) -> bytes:
    """A PNG file of uint8 (C, H, W), its shorter side no longer than `SIDE`."""
    from PIL import Image

    image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    if (scale := SIDE / min(image.size)) < 1:
        image = image.resize((max(1, round(scale * image.width)), max(1, round(scale * image.height))))
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return file.getvalue()

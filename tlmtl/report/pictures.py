"""The images of a run's data set, found again through the run's own config. All that needs torch is in here, and waits."""

import io
from collections.abc import Iterable
from typing import Any

from tlmtl.errors import TlmtlError
from tlmtl.report.folders import Run

SIDE = 96  # pixels of the shorter side, at most


def read(
    run: Run, task: str, ids: Iterable[str], data_hash: str | None, allow: list[str]
) -> tuple[dict[str, bytes], str]:
    """PNG files of the test examples `ids` of `task`, by id; and why there are none.

    Nothing is downloaded, and no package is imported for the config, which may be a stranger's, but tlmtl's own and those
    of `allow`.
    """
    try:
        data, why = _data(run, task, allow)
        if data is None:
            return {}, why
        if data_hash and data.hash != data_hash:
            return {}, "the data set has changed since the run"
        where = {data.ids[at]: int(at) for at in data.splits["test"]}
        return {name: _png(data.examples.images, where[name]) for name in ids if name in where}, ""
    except TlmtlError as error:
        return {}, f"the data set cannot be read: {str(error).splitlines()[0]}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        return {}, f"the data set cannot be read: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _data(run: Run, task: str, allow: list[str]) -> tuple[Any, str]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from tlmtl import files
    from tlmtl.config import Config
    from tlmtl.data.parts import streams_of

    path = run.path / "config.yaml"
    if not path.is_file():
        return None, "its folder has no config.yaml"
    try:
        cfg = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(path))
        _stay_offline(cfg.dataset)
        found = streams_of(cfg.dataset, cfg.tasks, allow, files.cache_folder(cfg.output.cache))
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError) as error:
        return None, f"its config.yaml cannot be read: {(str(error).splitlines() or [''])[0]}"
    data = next((one for one in found.values() if task in one.tasks), None)
    return data, "" if data else f"its data set has no task {task} any more"


def _stay_offline(node: Any) -> None:
    """`download: false` wherever a data set may fetch itself: making a page fetches nothing."""
    from omegaconf import OmegaConf

    if OmegaConf.is_dict(node):
        for key in list(node):
            if key == "download":
                node[key] = False
            elif not OmegaConf.is_missing(node, key):
                _stay_offline(node[key])


def _png(images: Any, index: int) -> bytes:
    import torch
    from PIL import Image

    from tlmtl.preprocess import Preprocess

    facts, pixels = images.facts, getattr(images, "pixels", None)
    if facts is not None:
        own = min(int(facts.height[index]), int(facts.width[index]))
    else:
        own = min(pixels.shape[-2:]) if pixels is not None else SIDE
    taken = images.read(torch.tensor([index]), Preprocess(min(own, SIDE), None, (0.5,), (0.5,)))[0]
    array = taken.permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(file, format="PNG", optimize=True)
    return file.getvalue()

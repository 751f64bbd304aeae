"""What the runs of a sweep have in common, loaded once: the fork server imports this module before it makes a child, so each
child begins with the data sets and source parameters in memory.

Nothing may be left here that a fork does not survive: one thread computes, and pools of threads are made anew in a child.
"""

import contextlib
import gc
import json
import os
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

NAME = "TLMTL_PRELOAD"
MOST = 4  # data sets or sources of a sweep that are worth their memory in every child


def announce(configs: Sequence[DictConfig]) -> None:
    """Tell a fork server that is started after this what to load. One that is there already goes on as it is."""
    found: dict[str, str] = {}
    for cfg in configs:
        shared = {key: OmegaConf.to_container(cfg[key], resolve=True) for key in ("dataset", "model", "source")}
        found.setdefault(json.dumps(shared, sort_keys=True, default=str), OmegaConf.to_yaml(cfg, resolve=True))
        if len(found) > MOST:
            os.environ.pop(NAME, None)
            return
    os.environ[NAME] = json.dumps(list(found.values()))


def forget() -> None:
    """Whatever was announced has been heard."""
    os.environ.pop(NAME, None)


def _load(configs: Sequence[str]) -> None:
    import torch

    from tlmtl.assemble import assemble
    from tlmtl.initial import keep

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for text in configs:
            cfg = OmegaConf.create(text)
            assert isinstance(cfg, DictConfig)
            keep(cfg, assemble(cfg).source)
    finally:
        torch.set_num_threads(threads)


if said := os.environ.pop(NAME, None):
    # Whatever is wrong is each run's own failure, told in its folder; and what is printed here no run has said.
    nowhere = Path(os.devnull).open("w")  # noqa: SIM115
    with (
        contextlib.suppress(Exception),
        nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        _load(json.loads(said))

gc.freeze()  # what is there stays: children need not look through it for garbage, and share its memory as it is

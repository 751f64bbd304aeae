"""What the runs of a sweep have in common before the first of them starts: the formats in which a model is trained."""

import json
import logging
from collections.abc import Sequence

from omegaconf import OmegaConf

from tlmtl import execution, hardware
from tlmtl.assemble import assemble, setup
from tlmtl.errors import TlmtlError
from tlmtl.sweep.plan import Job

log = logging.getLogger("tlmtl")


def agree(jobs: Sequence[Job]) -> None:
    """Choose the formats of runs that leave them open, and keep the choice in the sweep's folder, where runs look for it.

    It is made here, while nothing else runs, with the longest run of each model. A single job chooses for itself.
    """
    by_model: dict[str, list[Job]] = {}
    for item in jobs:
        if hardware.tuned(item.cfg.hardware):
            asked = {key: OmegaConf.to_container(item.cfg[key], resolve=True) for key in ("model", "hardware")}
            by_model.setdefault(json.dumps(asked, sort_keys=True, default=str), []).append(item)
    for same in by_model.values():
        longest = max(same, key=lambda item: item.image_steps)
        if len(jobs) == 1 or not longest.image_steps:
            continue
        try:
            parts = assemble(longest.cfg)
            usual = execution.machine(parts)
            found = execution.chosen(parts, usual, setup(parts, usual), longest.folder)
        except (TlmtlError, OSError) as error:  # told by the run itself
            log.info("The formats of %s could not be timed: %s", longest.label, error)
            continue
        log.info("%s", found["line"])

"""Which weighting a run has, and which parameters it looks at."""

from dataclasses import replace

from omegaconf import DictConfig

from tlmtl.config import build, keywords
from tlmtl.errors import ConfigError
from tlmtl.models.encoder import Encoder
from tlmtl.optim import Units
from tlmtl.sharing.base import Sharing, private
from tlmtl.tasks.base import Task
from tlmtl.weighting.base import Weighting

PLAIN_SUM = "tlmtl.weighting.static.Sum"


def weighting_of(cfg: DictConfig, tasks: dict[str, Task], units: Units, model: Sharing, streams: int) -> Weighting:
    """How the task losses become one update: a plain sum where there is nothing to weigh.

    Raises ConfigError for a weighting that looks at features which the tasks do not share.
    """
    allow = list(cfg.allow)
    if len(tasks) == 1 or model.separate:
        keywords(cfg.weighting, "weighting", "weighting", allow)  # what is not used is checked all the same
        equal = {name: replace(task, weight=1.0) for name, task in tasks.items()}  # type: ignore[type-var]
        return build({"_target_": PLAIN_SUM}, "weighting", tasks=equal)
    found = build(cfg.weighting, "weighting", allow=allow, tasks=tasks, steps_per_epoch=units.steps_per_epoch)
    if not found.scalar and found.level == "features" and (streams > 1 or not model.one_feature):
        why = (
            "the tasks of a joint data set have different inputs"
            if streams > 1
            else f"with sharing={cfg.composed.choices.get('sharing')} the heads do not take the same features"
        )
        raise ConfigError(
            f"'weighting.level=features' needs tasks that share one input and one feature tensor, but {why}. "
            "Use weighting.level=parameters."
        )
    if hides(found) and cfg.hardware.compile is True:
        raise ConfigError(
            "'weighting.level=features' needs features that a compiled model hides. Use weighting.level=parameters, or "
            "hardware.compile=false."
        )
    return found


def hides(weighting: Weighting) -> bool:
    """Whether compiling a model hides from `weighting` what it looks at."""
    return not weighting.scalar and weighting.level == "features"


def private_of(weighting: Weighting, model: Sharing, encoder: Encoder) -> set[str]:
    """The parameters that serve one task alone, where a weighting looks at what is shared."""
    looks = not weighting.scalar and weighting.level == "parameters"
    return private(model, encoder.blank(2)) if looks else set()

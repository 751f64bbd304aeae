"""Where a run's source parameters come from, read once for all runs of a sweep."""

import json

from omegaconf import DictConfig, OmegaConf

from tlmtl.config import build, keywords
from tlmtl.errors import ConfigError
from tlmtl.identity import needs_source
from tlmtl.models.encoder import Encoder
from tlmtl.models.source import Source

KEPT: dict[str, Source] = {}  # by what names them; filled where runs are forked from, so that each of them has these
MOST = 4  # sources of a sweep that are worth their memory


def source_of(cfg: DictConfig, encoder: Encoder, with_source: bool = True) -> Source | None:
    """The source parameters that `cfg` names; None for a run that uses none.

    Arguments:
        with_source: whether a source that is still to be trained is an error; else it is None.

    Raises ConfigError for a source that is missing, broken or of another model.
    """
    if not needs_source(cfg):
        return None
    if str(cfg.source.get("_target_", "")).endswith(".no_source"):
        raise ConfigError(
            f"strategy={cfg.composed.choices.get('strategy', '?')} starts from source parameters, but source=none. Choose "
            "source=pretrain, source=run or source=imagenet, or strategy=from_scratch."
        )
    keywords(cfg.source, "source", "source", list(cfg.allow))
    if not with_source and "dataset" in cfg.source and not cfg.source.get("path"):
        return None
    return KEPT.get(_name(cfg)) or build(cfg.source, "source", allow=list(cfg.allow), encoder=encoder)


def keep(cfg: DictConfig, source: Source | None) -> None:
    """Have `source_of` give this source from now on for configs that name it as `cfg` does."""
    if source is not None and len(KEPT) < MOST:
        KEPT[_name(cfg)] = source


def _name(cfg: DictConfig) -> str:
    parts = {key: OmegaConf.to_container(cfg[key], resolve=True) for key in ("model", "source")}
    return json.dumps(parts, sort_keys=True, default=str)

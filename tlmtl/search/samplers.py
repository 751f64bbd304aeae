"""How a search draws (samplers) and when it gives a run up (pruners): Optuna's, by name, and no others: a config is data."""

import inspect
import logging
import warnings
from collections.abc import Mapping
from typing import Any

from tlmtl.errors import ConfigError, nearest

# `grid` counts the points itself: Optuna's own grid cannot be asked from outside its loop.
SAMPLERS = {"tpe": "TPESampler", "random": "RandomSampler", "grid": "", "cmaes": "CmaEsSampler", "qmc": "QMCSampler",
            "gp": "GPSampler"}  # fmt: skip
PRUNERS = {"median": "MedianPruner", "none": "NopPruner"}
NEEDS = {"cmaes": "cmaes"}  # a package that Optuna does not bring along
WARMUP = 20  # percent of a run that is not judged: rates are still rising there


def need_optuna() -> None:
    """Raises ConfigError when Optuna is not installed; else keeps it from talking: what matters is said here."""
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            "A search needs Optuna, which is not installed: pip install 'tlmtl[tune]'. A sweep over lists does without."
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("optuna").propagate = False
    warnings.filterwarnings("ignore", module=r"optuna\..*")
    logging.getLogger("alembic").setLevel(logging.WARNING)


class Sampling:
    """The sampler by name. A new one is made for each trial, seeded by the trial's number: a search that is stopped and
    started again draws what it would have drawn, and a random one draws the same points whatever it is told."""

    def __init__(self, node: Any, seed: int, where: str = "hydra.sweeper.sampler") -> None:
        """`node`: a name, or a mapping with `name`, `seed` (the run's own when not given) and keywords of Optuna's."""
        self.where, settings = where, _settings(node, where)
        self.name = _known(settings.pop("name", "tpe"), SAMPLERS, where)
        own = settings.pop("seed", None)
        self.seed = seed if own is None else own
        if not isinstance(self.seed, int) or self.seed < 0:
            raise ConfigError(f"'{where}.seed' should be a whole number, 0 or more. Found {self.seed}.")
        if (package := NEEDS.get(self.name)) and not _installed(package):
            raise ConfigError(f"'{where}={self.name}' needs a package that is not there: pip install {package}.")
        self.settings = settings
        if self.name == "grid" and settings:
            raise ConfigError(f"'{where}.{next(iter(settings))}' is no setting of grid, which has none.")
        self.of(0)

    def of(self, number: int) -> Any:
        """The sampler for trial `number`; None for a grid. Raises ConfigError for a setting that it does not have."""
        if self.name == "grid":
            return None
        import numpy as np

        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        return _made("samplers", SAMPLERS[self.name], {**self.settings, "seed": seed}, self.where)

    @property
    def blind(self) -> bool:
        """Whether nothing that trials say changes what is drawn next: all of them can be asked for at once."""
        return self.name in ("random", "grid", "qmc")

    def describe(self) -> list[Any]:
        return [self.name, self.seed, sorted(self.settings.items())]


def pruner_of(node: Any) -> Any:
    """The pruner by name, or as a mapping with `name` and keywords of Optuna's; its steps are percent of a run."""
    settings = _settings(node, "hydra.sweeper.pruner")
    name = _known(settings.pop("name", "median"), PRUNERS, "hydra.sweeper.pruner")
    if name == "median":
        settings = {"n_warmup_steps": WARMUP, **settings}
    return _made("pruners", PRUNERS[name], settings, "hydra.sweeper.pruner")


def _settings(node: Any, where: str) -> dict[str, Any]:
    if node is None:
        return {"name": "none" if where.endswith("pruner") else "tpe"}
    if isinstance(node, Mapping):
        return {str(key): value for key, value in node.items()}
    if not isinstance(node, str):
        raise ConfigError(f"'{where}' should be a name, or a mapping with a name. Found {node}.")
    return {"name": node}


def _known(name: Any, known: Mapping[str, str], where: str) -> str:
    if name not in known:
        raise ConfigError(
            f"'{where}' should be one of {', '.join(known)}. Found {name}.{nearest(str(name), list(known))}"
        )
    return str(name)


def _made(kind: str, name: str, settings: dict[str, Any], where: str) -> Any:
    import optuna

    target = getattr(getattr(optuna, kind), name)
    keywords = [key for key in inspect.signature(target).parameters if not key.endswith("_func")]
    for key in settings:
        if key not in keywords:
            raise ConfigError(
                f"'{where}.{key}' is no setting of {name}.{nearest(key, keywords)} It has {', '.join(keywords)}."
            )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return target(**settings)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"'{where}' cannot be made of {settings}: {error}.") from error


def _installed(package: str) -> bool:
    from importlib.util import find_spec

    return find_spec(package) is not None

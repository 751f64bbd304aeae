"""What a search may choose from, read from Hydra's own grammar of sweeps: lists, `choice`, `range`, `interval` and tags."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from tlmtl.errors import ConfigError

DIGITS = 4  # significant ones of a number drawn from an interval: it stands in tables and is typed again


@dataclass(frozen=True)
class Space:
    """Keys as an override has them (`optimizer.lr`, `+term.x`), each with what it is drawn from.

    Values are kept as texts of the command line, so `null` and lists can be chosen too.
    """

    of: Mapping[str, BaseDistribution]

    def suggest(self, trial: Trial) -> dict[str, str]:
        """The trial's settings: those that it was given before, or new ones. Always in the same order."""
        for key, drawn in sorted(self.of.items()):
            if isinstance(drawn, CategoricalDistribution):
                trial.suggest_categorical(key, drawn.choices)
            elif isinstance(drawn, IntDistribution):
                trial.suggest_int(key, drawn.low, drawn.high, step=drawn.step, log=drawn.log)
            elif isinstance(drawn, FloatDistribution):
                trial.suggest_float(key, drawn.low, drawn.high, step=drawn.step, log=drawn.log)
        return self.texts(trial.params)

    def texts(self, params: Mapping[str, Any]) -> dict[str, str]:
        return {key: _text(drawn, params[key]) for key, drawn in self.of.items()}

    def corners(self) -> list[dict[str, str]]:
        """Settings in which every choice and every end of an interval stands once: what is wrong with one is found there."""
        ends = {key: _ends(drawn) for key, drawn in self.of.items()}
        first = {key: values[0] for key, values in ends.items()}
        return [first, *({**first, key: value} for key, values in ends.items() for value in values[1:])]

    def points(self) -> list[dict[str, Any]]:
        """Every combination. Raises ConfigError where there is no end to them."""
        if open_ended := [key for key, drawn in self.of.items() if _steps(drawn) is None]:
            raise ConfigError(
                f"A grid needs values that can be counted. Found an interval at '{open_ended[0]}': give a list, a range, or "
                "hydra.sweeper.sampler=tpe."
            )
        made: list[dict[str, Any]] = [{}]
        for key, drawn in sorted(self.of.items()):
            made = [{**point, key: value} for point in made for value in _steps(drawn) or []]
        return made

    def at_edge(self, texts: Mapping[str, str]) -> list[str]:
        """Keys of numbers that lie within 5 % of an end of their interval, on its own scale: better ones may lie beyond."""
        places = {key: _place(drawn, texts[key]) for key, drawn in self.of.items()}
        return [key for key, place in places.items() if place is not None and min(place, 1 - place) < 0.05]

    def describe(self) -> dict[str, str]:
        """The same text for the same space, by key."""
        return {key: _said(drawn) for key, drawn in sorted(self.of.items())}


def parse(words: Sequence[str], loader: Any) -> tuple[list[str], Space]:
    """The overrides that are fixed, as they are, and the space of those that are not. Of two for one key the last counts.

    Raises ConfigError for what cannot be drawn from.
    """
    read = OverridesParser.create(config_loader=loader).parse_overrides(list(words))
    last = {item.get_key_element(): (word, item) for word, item in zip(words, read, strict=True)}
    fixed = [word for word, item in last.values() if not item.is_sweep_override()]
    return fixed, Space({key: _drawn(item) for key, (_, item) in last.items() if item.is_sweep_override()})


def from_config(node: Any, loader: Any) -> Space:
    """The space that `tune.space` holds: by key (dotted or nested) a list, or a text in the grammar of sweeps."""
    words = []
    for key, value in _leaves(OmegaConf.to_container(node, resolve=True), ""):
        if isinstance(value, list):
            items = ",".join(Override._get_value_element_as_str(item) for item in value)
            value = items if len(value) > 1 else f"choice({items})"  # choice() takes no null
        if value is not None:  # null takes a key of a preset's space out
            words.append(f"{key}={value}")
    fixed, space = parse(words, loader)
    if fixed:
        key, _, value = fixed[0].partition("=")
        raise ConfigError(
            f"'tune.space.{key}' should be a list, choice(...), range(...) or interval(...). Found {value}. "
            f"A single value is set as always: {key}={value}."
        )
    return space


def _leaves(node: Any, prefix: str) -> list[tuple[str, Any]]:
    if not isinstance(node, dict):
        return [(prefix, node)]
    return [leaf for key, value in node.items() for leaf in _leaves(value, f"{prefix}.{key}" if prefix else str(key))]


def _drawn(item: Override) -> BaseDistribution:
    key, said = item.get_key_element(), item.get_value_string()
    if item.is_delete():
        raise ConfigError(f"'{said}' cannot be searched: a key is either there or not.")
    tags: set[str] = getattr(item.value(), "tags", set())
    if unknown := sorted(set(tags) - {"log", "int"}):
        raise ConfigError(f"'{key}={said}' has the tag '{unknown[0]}'. Known: log, int.")
    log = "log" in tags
    try:
        if item.is_interval_sweep():
            swept: Any = item.value()
            if "int" in tags:
                return IntDistribution(_whole(swept.start), _whole(swept.end), log=log)
            return FloatDistribution(float(swept.start), float(swept.end), log=log)
        if item.is_range_sweep():
            values: list[Any] = list(item.sweep_iterator())
            ordered = sorted(values)
            if not values:
                raise ValueError("it is empty")
            step = ordered[1] - ordered[0] if len(ordered) > 1 else 1
            if all(isinstance(value, int) for value in values):
                return IntDistribution(ordered[0], ordered[-1], step=1 if log else step, log=log)
            return FloatDistribution(ordered[0], ordered[-1], step=None if log else step, log=log)
        if log:
            raise ValueError("the tag log is for range and interval")
        texts = list(dict.fromkeys(item.sweep_string_iterator()))
        if not texts:
            raise ValueError("nothing to choose from")
        return CategoricalDistribution(texts)
    except ValueError as error:
        said_low = str(error).rstrip(".").replace("`", "'")
        raise ConfigError(f"'{key}={said}' cannot be drawn from: {said_low}.") from error


def _whole(value: Any) -> int:
    if int(value) != value:
        raise ValueError(f"tag(int, ...) needs whole ends, found {value}")
    return int(value)


def _text(drawn: BaseDistribution, value: Any) -> str:
    """A drawn value as the command line has it."""
    if not isinstance(drawn, FloatDistribution):
        return str(value)
    if drawn.step is not None:
        return f"{value:.10g}"
    short = float(f"{value:.{DIGITS}g}")
    return repr(short) if drawn.low <= short <= drawn.high else repr(float(value))


def _ends(drawn: BaseDistribution) -> list[str]:
    if isinstance(drawn, CategoricalDistribution):
        return [str(choice) for choice in drawn.choices]
    assert isinstance(drawn, IntDistribution | FloatDistribution)
    return list(dict.fromkeys(_text(drawn, value) for value in (drawn.low, drawn.high)))


def _steps(drawn: BaseDistribution) -> list[Any] | None:
    if isinstance(drawn, CategoricalDistribution):
        return list(drawn.choices)
    if isinstance(drawn, IntDistribution):
        return list(range(drawn.low, drawn.high + 1, drawn.step))
    assert isinstance(drawn, FloatDistribution)
    if drawn.step is None:
        return None
    return [drawn.low + i * drawn.step for i in range(round((drawn.high - drawn.low) / drawn.step) + 1)]


def _place(drawn: BaseDistribution, text: str) -> float | None:
    """Where a number lies in its interval, from 0 to 1; None where there is no order, or no room."""
    if isinstance(drawn, CategoricalDistribution):
        return None
    assert isinstance(drawn, IntDistribution | FloatDistribution)
    scale = math.log if drawn.log else float
    low, high = scale(drawn.low), scale(drawn.high)
    return None if high <= low else (scale(float(text)) - low) / (high - low)


def _said(drawn: BaseDistribution) -> str:
    if isinstance(drawn, CategoricalDistribution):
        return ", ".join(map(str, drawn.choices))
    assert isinstance(drawn, IntDistribution | FloatDistribution)
    step = f" in steps of {drawn.step:g}" if drawn.step not in (None, 1) else ""
    whole = "whole numbers " if isinstance(drawn, IntDistribution) else ""
    return f"{whole}{drawn.low:g} to {drawn.high:g}{step}{', log scale' if drawn.log else ''}"

"""Freezing is data: a list of rules says which parameters train, how fast and from when (as in big_vision's optimizers).

    {params: "heads.*"}                              trains at the strategy's rate
    {params: "backbone.*", lr_scale: 0.1}            at a tenth of it
    {params: "backbone.*", frozen: true}             no gradient, eval mode, no optimizer state
    {params: "backbone.*", from: 0.5}                the same until half of the run is over

The first match wins (fnmatch; * crosses dots), every parameter must match, a rule that matches nothing is an error.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from tlmtl.config import typed, unknown_key
from tlmtl.errors import ConfigError, nearest

KEYS = ("params", "lr_scale", "frozen", "from")


@dataclass
class Rule:
    """One rule of a strategy, as its YAML gives it; `from` is a Python word, so the field is `start`."""

    params: str
    lr_scale: float = 1.0
    frozen: bool = False
    start: Any = 0.0  # `from`: a fraction of the run, or a duration such as "10ep"


def parse_rules(nodes: Sequence[Any]) -> list[Rule]:
    """Raises ConfigError for an unknown key or a wrong type, naming the rule by its position."""
    rules = []
    for i, node in enumerate(nodes):
        where = f"strategy.rules[{i}]"
        if "params" not in node:
            raise ConfigError(f"'{where}' needs 'params', a pattern of parameter names such as \"backbone.*\".")
        for key in node:
            if key not in KEYS:
                raise unknown_key(f"{where}.{key}", [f"{where}.{name}" for name in KEYS])
        values = typed(Rule, {("start" if key == "from" else key): value for key, value in node.items()}, where)
        if values.lr_scale < 0:
            raise ConfigError(f"'{where}.lr_scale' should not be negative. Found {values.lr_scale}.")
        rules.append(Rule(values.params, values.lr_scale, values.frozen, values.start))
    return rules


def match(rules: Sequence[Rule], names: Iterable[str]) -> dict[str, Rule]:
    """The rule of every parameter name. Raises ConfigError for a rule without a parameter or the other way round."""
    names = list(names)
    found: dict[str, Rule] = {}
    for name in names:
        rule = next((rule for rule in rules if fnmatchcase(name, rule.params)), None)
        if rule is None:
            raise ConfigError(
                f"No rule of 'strategy.rules' matches the parameter '{name}': every parameter must match one. "
                'Add {params: "*"} as the last rule, or one with frozen: true.'
            )
        found[name] = rule
    for i, rule in enumerate(rules):
        if not any(used is rule for used in found.values()):
            earlier = any(fnmatchcase(name, rule.params) for name in names)
            reason = "earlier rules match all of its parameters" if earlier else _hint(rule.params, names)
            raise ConfigError(f"'strategy.rules[{i}]' ({rule.params!r}) matches no parameter: {reason}")
    return found


def _hint(pattern: str, names: list[str]) -> str:
    modules = sorted({".".join(name.split(".")[:depth]) for name in names for depth in (1, 2)})
    shown = ", ".join(modules[:12]) + (", ..." if len(modules) > 12 else "")
    return f"the model's parameters are under {shown}.{nearest(pattern.rstrip('.*'), modules)}"


def set_modes(model: nn.Module) -> None:
    """Train mode for what trains, eval mode for a subtree without a trainable parameter (so that frozen batch norms keep
    their running statistics); modules without parameters follow their parent."""

    def visit(module: nn.Module, parent: bool) -> None:
        parameters = list(module.parameters())
        module.training = any(p.requires_grad for p in parameters) if parameters else parent
        for child in module.children():
            visit(child, module.training)

    visit(model, True)

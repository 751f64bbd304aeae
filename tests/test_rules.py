"""Rules: which parameters train, how fast, from when; and the modes that follow from them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import tlmtl
from tlmtl.assemble import assemble
from tlmtl.errors import ConfigError
from tlmtl.strategies.rules import Rule, match, parse_rules, set_modes

NAMES = ["backbone.block1.0.weight", "backbone.block2.0.weight", "heads.digit.linear.weight", "heads.digit.linear.bias"]


def rules(*nodes):
    return parse_rules(list(nodes))


def test_the_first_match_wins():
    made = rules(
        {"params": "heads.*", "lr_scale": 2},
        {"params": "*.block1.*", "frozen": True},
        {"params": "*", "from": "3ep"},
        {"params": "backbone.*"},
    )
    assert made[0] == Rule("heads.*", 2.0, False, 0.0) and made[2].start == "3ep"
    found = match(made[:3], NAMES)
    assert [made.index(found[name]) for name in NAMES] == [1, 2, 0, 0]
    with pytest.raises(ConfigError, match=r"'strategy.rules\[3\]' .* earlier rules match all of its parameters"):
        match(made, NAMES)


@given(st.permutations(NAMES))
def test_the_order_of_parameters_does_not_matter(names):
    made = rules({"params": "*.weight", "lr_scale": 0.5}, {"params": "*"})
    assert match(made, names) == match(made, NAMES)


def test_every_parameter_must_match_and_every_rule():
    with pytest.raises(
        ConfigError, match=r"No rule of 'strategy.rules' matches the parameter 'heads.digit.linear.weight'"
    ):
        match(rules({"params": "backbone.*"}), NAMES)
    with pytest.raises(
        ConfigError, match=r"'strategy.rules\[0\]' \('backbnoe.\*'\) matches no parameter: .*'backbone'\?"
    ):
        match(rules({"params": "backbnoe.*"}, {"params": "*"}), NAMES)
    with pytest.raises(
        ConfigError, match=r"No rule of 'strategy.rules' matches the parameter 'backbone.block1.0.weight'"
    ):
        match([], NAMES)


@pytest.mark.parametrize(
    ("node", "text"),
    [
        (
            {"params": "*", "frozn": True},
            r"Unknown key 'strategy.rules\[1\].frozn'. Did you mean 'strategy.rules\[1\].frozen'",
        ),
        (
            {"params": "*", "form": 0.5},
            r"Unknown key 'strategy.rules\[1\].form'. Did you mean 'strategy.rules\[1\].from'",
        ),
        ({"params": "*", "start": 0.5}, r"Unknown key 'strategy.rules\[1\].start'"),
        ({"params": "*", "lr_scale": -0.1}, r"'strategy.rules\[1\].lr_scale' should not be negative. Found -0.1"),
        ({"params": "*", "lr_scale": "fast"}, r"Wrong value at 'strategy.rules\[1\].lr_scale'"),
        ({"params": "*", "frozen": "maybe"}, r"Wrong value at 'strategy.rules\[1\].frozen'"),
        ({"frozen": True}, r"'strategy.rules\[1\]' needs 'params'"),
    ],
)
def test_a_wrong_rule_is_named(node, text):
    with pytest.raises(ConfigError, match=text):
        rules({"params": "heads.*"}, node)


@pytest.mark.parametrize(
    ("start", "text"),
    [
        ("1.5", r"as a number is a fraction of the run, 0 to 1.* Found 1.5"),
        ("soon", r"from' should be a duration.* 'soon'"),
    ],
)
def test_a_wrong_start_is_named(start, text):
    rule = f'{{params: "backbone.*", from: {start}}}'
    with pytest.raises(ConfigError, match=text):
        assemble(tlmtl.compose(["strategy=from_scratch", f'strategy.rules=[{{params: "heads.*"}},{rule}]']))


def test_nothing_trains():
    with pytest.raises(ConfigError, match=r"Nothing trains: every parameter is frozen by 'strategy.rules'"):
        assemble(tlmtl.compose(["strategy=from_scratch", 'strategy.rules=[{params: "*", frozen: true}]']))


def test_modes_follow_what_trains():
    norm, dropout = nn.BatchNorm1d(4), nn.Dropout()
    body = nn.Sequential(nn.Linear(4, 4), norm, dropout)
    head = nn.Sequential(nn.Dropout(), nn.Linear(4, 2))
    model = nn.ModuleDict({"body": body, "head": head})
    body.requires_grad_(False)
    set_modes(model.train())
    assert model.training and head.training and head[0].training and head[1].training
    assert not (body.training or norm.training or dropout.training or body[0].training)
    body[0].weight.requires_grad_(True)  # the linear layer thaws, the norm beside it stays frozen
    set_modes(model.eval())
    assert body.training and body[0].training and dropout.training and not norm.training
    model.requires_grad_(False)
    set_modes(model.train())
    assert not any(module.training for module in model.modules())

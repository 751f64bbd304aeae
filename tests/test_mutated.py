"""Mutated configs: whatever is wrong with a command or a preset, it ends in a message that names the key, never in a traceback.

Everything goes through the front door, up to the first steps of training, which what is valid has to pass too.
"""

import copy
import json
import string
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import refused
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image

from tlmtl import cli, commands, hardware, identity, pretrain
from tlmtl.assemble import setup
from tlmtl.loop import fit
from tlmtl.presets import GROUP_NAMES, packaged_folder
from tlmtl.training import State, Watch

SCRATCH = ["strategy=from_scratch", "source=none"]
TWO = ["dataset=two_digits", "strategy=multitask"]
BASES = [  # valid commands, all of the embedded data or a few images
    [],
    ["+experiment=two_digits"],
    [*SCRATCH, "dataset=folder", "dataset.root=images"],
    [*SCRATCH, "dataset=table", "dataset.path=labels.csv"],
    [*SCRATCH, "dataset=joint", "dataset.parts=[digits,two_digits]"],
    [*SCRATCH, "model=timm", "model.name=resnet10t"],
    ["strategy=finetune_all", "term=[l2_sp,distill_features]"],
    ["strategy=staged", "schedule=cosine", "optimizer=sgd"],
    ["logger=wandb"],
    *([*TWO, f"sharing={name}"] for name in ("mmoe", "ple", "mtan", "cross_stitch")),
    *([*TWO, f"weighting={name}"] for name in ("uncertainty", "dwa", "gradnorm", "cagrad", "famo", "static", "stch")),
    [*TWO, "tasks=all", "fusion=weighted", "fusion.tasks=[left,right]"],
    [*TWO, "term=[supcon,deep_supervision]"],
]
BAD = [
    "abc", "", "null", "-1", "0", "1.5", "nan", "inf", "-inf", "1e400", "9" * 23, "true", "[]", "[1,2]", "[abc]", "[[]]",
    "{a: 1}", "{}", "???", "[null]", "'${nope}'", "'${oc.env:TLMTL_NOT_SET}'", "'${now:}'", "'${'", "${x",
    "'\u6f22\u5b57'", "\u00e9", "' '", "{a: {b: {c: [1, {d: 2}]}}}", "[", "}", "'", "a,b",
    "1,2", "-1%", "3parsecs", "1e-320", "0x10", "1_000", "../..", "\\n",
]  # fmt: skip
JUNK = [
    "- a\n",
    "3\n",
    "a: [1\n",
    "\t\tx: 1\n",
    "{}\n",
    "",
    "a: &x [*x]\n",
    "a: !!python/object:os.system {}\n",
    "\ufeff# x\n",
]
JUNK += [
    "defaults: [nope]\n",
    "defaults: 3\n",
    "defaults: [{a: b}]\n",
    "? [1, 2]\n: 3\n",
    "null: 1\n",
    "1: 2\n",
    "_target_: os.system\n",
]
# Keys whose value reaches the message under another name, as the key that it was given to.
ALSO = {"strategy.lr": "optimizer.lr", "strategy.tasks": "'tasks'"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working folder with a few images and a table, where commands end after a few steps; parsed presets are kept."""
    folder = tmp_path_factory.mktemp("mutated")
    random = np.random.default_rng(0)
    lines = ["image,kind,size"]
    for number in range(40):
        path = folder / "images" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (20, 20), dtype=np.uint8)).save(path)
        lines.append(f"{path.relative_to(folder)},{'ab'[number % 2]},{number / 7}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    load, known = OmegaConf.load, {}

    def once(file):
        name = getattr(file, "name", "")
        if not name.startswith(str(packaged_folder())):
            return load(file)
        if name not in known:
            known[name] = load(file)
        return copy.deepcopy(known[name])

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("COLUMNS", "200")
        patch.setattr(OmegaConf, "load", once)
        patch.setattr(commands, "_run", begin)
        yield folder


def begin(cfg) -> int:
    """What a run does before its first step, and two steps, in place of all of it."""
    parts = pretrain.check(cfg)
    json.dumps([identity.config_hash(cfg), identity.group_id(cfg), identity.baseline_id(cfg), identity.settings(cfg)])
    made = setup(parts, hardware.machine(cfg.hardware, parts.encoder.threads))
    made.total, made.evaluate_every = min(made.total, 2), 2
    if not any(term.needs.source_model for term in parts.terms.values()):  # which is not trained here
        fit(made, State(), Watch())
    return 0


@lru_cache(maxsize=64)
def keys_of(base: tuple[str, ...]) -> list[str]:
    """The keys of what `base` composes, sections and members too."""
    import tlmtl

    node = OmegaConf.to_container(tlmtl.compose(list(base)), resolve=False)
    found: list[str] = []

    def walk(below: dict, prefix: str) -> None:
        for key, value in below.items():
            found.append(f"{prefix}{key}")
            if isinstance(value, dict):
                walk(value, f"{prefix}{key}.")

    walk({key: value for key, value in node.items() if key != "composed"}, "")
    return found


def misspelt(draw, word: str) -> str:
    at = draw(st.integers(0, len(word) - 1))
    letter = draw(st.sampled_from(string.ascii_letters + "_-. é"))
    return draw(
        st.sampled_from(
            [word[:at] + word[at + 1 :], word[:at] + letter + word[at:], word[:at] + letter + word[at + 1 :]]
        )
    )


@st.composite
def commands_with_a_fault(draw) -> tuple[list[str], str, str]:
    """A command, the key that was mutated, and the text of a preset `mine` for its group ("" for none)."""
    base = draw(st.sampled_from(BASES))
    key = draw(st.sampled_from(keys_of(tuple(base))))
    value = draw(st.one_of(st.sampled_from(BAD), st.integers().map(str), st.text(max_size=8)))
    how = draw(
        st.sampled_from(["value", "value", "value", "typo", "gone", "added", "twice", "member", "preset", "text"])
    )
    if how == "value":
        return [*base, f"{key}={value}"], key, ""
    if how == "typo":
        wrong = misspelt(draw, key)
        return [*base, f"{wrong}=1"], wrong, ""
    if how == "gone":
        return [*base, f"~{key}"], key, ""
    if how == "added":
        name = draw(st.sampled_from(["x", "_target_", "params", "lr", "self", "kwargs", "defaults", "hydra"]))
        return [*base, f"{draw(st.sampled_from(['+', '++']))}{key}.{name}={value}"], f"{key}.{name}", ""
    if how == "twice":
        return [*base, f"{key}={value}", f"{key}={draw(st.sampled_from(BAD))}"], key, ""
    if how == "text":
        return [*base, value], value, ""
    group = draw(st.sampled_from(sorted(set(GROUP_NAMES) - {"experiment"})))
    if how == "member":
        name = draw(st.sampled_from([*BAD, "nonee", "/etc/passwd", "none,none", f"{group}/none", "none.yaml"]))
        return [*base, f"{group}={name}"], group, ""
    file = draw(st.sampled_from(sorted((packaged_folder() / group).glob("*.yaml"))))
    text = draw(st.one_of(st.sampled_from(JUNK), faulty(file.read_text())))
    return [*base, "--config-dir", "mine", f"{group}=[mine]" if group == "term" else f"{group}=mine"], group, text


@st.composite
def faulty(draw, text: str) -> str:
    """The text of a preset with a line gone, doubled, cut or given another value."""
    lines = text.splitlines()
    at = draw(st.integers(0, len(lines) - 1))
    name, colon, _ = lines[at].partition(":")
    other = [
        lines[:at] + lines[at + 1 :],
        [*lines, lines[at]],
        [*lines[:at], lines[at][: len(lines[at]) // 2]],
        [*lines[:at], f"{name}{colon or ':'} {draw(st.sampled_from(BAD))}", *lines[at + 1 :]],
        [*lines[:at], misspelt(draw, lines[at] or "x"), *lines[at + 1 :]],
    ]
    return "\n".join(draw(st.sampled_from(other))) + "\n"


def law(place: Path, capfd, case: tuple[list[str], str, str]) -> None:
    words, key, preset = case
    if preset:
        group = words[-1].split("=")[0]
        (file := place / "mine" / group / "mine.yaml").parent.mkdir(parents=True, exist_ok=True)
        file.write_text(preset)
    capfd.readouterr()
    code = cli.main(["train", *words, "progress=false"])  # what would be a traceback comes through here
    said = capfd.readouterr()
    assert "Traceback" not in said.out + said.err
    if code == 0:
        return
    message = said.err[said.err.index("tlmtl: ") :]
    if code == 1:  # a value that is allowed and leads nowhere: a learning rate of a million
        assert "became" in message and "optimizer.lr" in message, message
        return
    assert code == 2, (code, said.err)
    assert len(message) < 2000, message
    full = key.lstrip("+~").split("=")[0]
    names = [full, ALSO.get(full, full), full.rsplit(".", 1)[-1], full.rpartition(".")[0] or full]
    if preset:
        names += ["mine", *(line.split(":")[0].strip() for line in preset.splitlines() if ":" in line)]
    if words[0] == "-" or full not in keys_of(()):  # no key at all: the text itself
        names += [word for word in words[-1:] if word]
    assert any(name and name in message for name in names) or repr(full)[1:-1] in message, (words, message)


# What was found by these tests, and each of which ended in a traceback.
FOUND = [
    "strategy=null", "dataset=0", "tasks=-1", "tasks=null", "strategy.tasks=1.5", "evaluate.also=3", "head.hidden=[[]]",
    "dataset.tasks.digit.metrics=[[]]", "+optimizer.betas=x", "hardware.threads=100000000",
]  # fmt: skip


def test_a_place_that_nobody_names_is_found(main):
    said = main("train", "dataset.tasks.parity.metrics=abc", "dataset.tasks.parity.metrics={a: 1}")
    refused(said, "Wrong value at 'dataset.tasks.parity.metrics'")


@pytest.mark.parametrize("word", FOUND)
def test_what_once_ended_in_a_traceback(place, capfd, word):
    law(place, capfd, ([word], word.split("=")[0], ""))


QUIET = {"deadline": None, "derandomize": True, "database": None, "print_blob": True}
QUIET["suppress_health_check"] = list(HealthCheck)


@settings(max_examples=25, **QUIET)
@given(commands_with_a_fault())
def test_a_mutated_config_ends_in_a_message_that_names_the_key(place, capfd, case):
    law(place, capfd, case)


@pytest.mark.slow
@settings(max_examples=300, **QUIET)
@given(commands_with_a_fault())
def test_300_mutated_configs_end_in_a_message_that_names_the_key(place, capfd, case):
    law(place, capfd, case)


@pytest.mark.slow
@pytest.mark.parametrize("base", [BASES[0], BASES[1], BASES[4]], ids=["default", "two digits", "joint"])
def test_every_key_with_every_kind_of_wrong_value(place, capfd, base):
    """For each key a third of the wrong values, in turn."""
    for number, key in enumerate(keys_of(tuple(base))):
        for value in BAD[number % 3 :: 3]:
            law(place, capfd, ([*base, f"{key}={value}"], key, ""))


def test_the_unbroken_commands_pass(place, capfd):
    for base in BASES[:3]:
        assert cli.main(["train", *base, "progress=false"]) == 0, capfd.readouterr().err


def test_the_presets_that_are_mutated_are_read():
    assert len(yaml.safe_load((packaged_folder() / "weighting/cagrad.yaml").read_text())) > 1

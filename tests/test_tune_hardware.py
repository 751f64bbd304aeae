"""The formats that a run is executed in: by rule, by timing that leaves no trace, the same for all that belongs together."""

import csv
import dataclasses
import json
import logging
from types import SimpleNamespace

import pytest
import torch
from conftest import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import tlmtl
from tlmtl import execution, hardware, identity, job, pretrain, timing, trial
from tlmtl.assemble import assemble, setup
from tlmtl.loop import fit
from tlmtl.models.encoder import Encoder, find_memory_format
from tlmtl.models.timm import timm_model
from tlmtl.models.torchvision import torchvision_model
from tlmtl.presets import packaged_folder
from tlmtl.progress import Silent
from tlmtl.results import RunFolder
from tlmtl.timing import Formats
from tlmtl.training import State, Watch
from tlmtl.trial import Format, Seen, Work

QUICK = ["strategy=from_scratch", "train.epochs=12st", "train.evaluate_every=4st", "progress=false"]
FAST = [*QUICK, "hardware=fast"]
PLAIN, LAST = Format("32-true", "contiguous"), Format("32-true", "channels_last")
HALF, BOTH = Format("bf16-mixed", "contiguous"), Format("bf16-mixed", "channels_last")
ALL = [PLAIN, LAST, HALF, BOTH]


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def always(monkeypatch):
    """Every run is long enough, and what comes out is the format with 16 bits and channels last."""
    for name, value in (
        ("LEAST", 0.0),
        ("FEWEST", 1),
        ("SHARE", 1e9),
        ("ROUNDS", 1),
        ("COMPILING", 1e12),
        ("UNREST", 1e9),
    ):
        monkeypatch.setattr(timing, name, value)
    monkeypatch.setattr(hardware, "takes_16_bits", lambda device: True)
    monkeypatch.setattr(execution.Formats, "_best", lambda self, work: BOTH)


def compose(*words, cache=None):
    return tlmtl.compose([*words, *([f"output.cache={cache}"] if cache else [])])


def run(folder, cfg, progress=None):
    job.execute(cfg, folder, folder.name, progress or Silent())
    row = next(csv.DictReader((folder / "results.csv").open()))
    return row, RunFolder(folder).record, (folder / "model.safetensors").read_bytes()


# by rule


@pytest.mark.parametrize(
    ("encoder", "advised"),
    [
        (lambda: timm_model("resnet10t", 32), "channels_last"),
        (lambda: torchvision_model("mobilenet_v3_small", 32), "channels_last"),
        (lambda: timm_model("vit_tiny_patch16_224", 32), "contiguous"),
    ],
)
def test_a_family_advises_channels_last_for_what_convolves(encoder, advised):
    assert encoder().memory_format == advised


def test_the_small_cnn_and_what_says_nothing_stay_contiguous():
    assert assemble(compose(*QUICK)).encoder.memory_format == "contiguous"
    assert Encoder(torch.nn.Identity(), 1, None, []).memory_format == "contiguous"
    assert find_memory_format(torch.nn.Conv2d(3, 8, 16, 16)) == "contiguous"  # patches


@pytest.mark.parametrize(("tune", "deterministic"), [("auto", "true"), ("off", "true"), ("off", "false")])
def test_what_is_auto_follows_a_rule(tune, deterministic):
    words = ["hardware=fast", f"hardware.tune={tune}", f"hardware.deterministic={deterministic}"]
    cfg = compose(*QUICK, *words)
    assert hardware.tuned(cfg.hardware) == []
    found = hardware.machine(cfg.hardware, 1, "channels_last")
    assert found.plan == {
        "device": "cpu", "precision": "32-true", "threads": 1, "memory_format": "channels_last", "compiled": False,
        "fused_with": None,
    }  # fmt: skip
    assert found.memory_format == torch.channels_last


def test_what_is_set_by_hand_is_never_chosen():
    cfg = compose("hardware=fast", "hardware.precision=bf16-mixed", "hardware.memory_format=contiguous")
    assert hardware.tuned(cfg.hardware) == ["compile"]
    found = hardware.machine(
        cfg.hardware, 1, "channels_last", {"precision": "32-true", "memory_format": "channels_last"}
    )
    assert (found.plan["precision"], found.plan["memory_format"]) == ("bf16-mixed", "contiguous")


def test_a_run_by_rule_says_its_formats_in_row_and_record(tmp_path):
    row, record, _ = run(tmp_path / "a", compose(*QUICK, "hardware.precision=auto"))
    assert (row["precision"], row["memory_format"], row["compiled"]) == ("32-true", "contiguous", "false")
    assert record["plan"]["memory_format"] == "contiguous" and "timing" not in record


def test_presets_are_complete():
    files = sorted((packaged_folder() / "hardware").glob("*.yaml"))
    keys = {path.stem: list(OmegaConf.load(path)) for path in files}
    assert len(keys) == 5 and all(found == keys["auto"] for found in keys.values()), keys
    assert set(keys["auto"]) == set(OmegaConf.structured(tlmtl.schema.Hardware))


@pytest.mark.parametrize(
    ("word", "known"),
    [
        ("hardware.precision=16", "32-true, bf16-mixed, bf16-true, auto"),
        ("hardware.memory_format=nhwc", "contiguous, channels_last, auto"),
        ("hardware.compile=maybe", "true, false, auto"),
        ("hardware.tune=on", "auto, off"),
        ("hardware.tune=true", "auto, off"),
        ("hardware.compile=1", "true, false, auto"),
    ],
)
def test_a_wrong_value_is_told(word, known, main):
    key, value = word.split("=")
    found = {"true": "True"}.get(value, value)
    refused(main("train", *QUICK, word), f"'{key}' should be one of {known}. Found '{found}'")


def test_whether_it_may_be_timed_is_no_part_of_a_run_that_is_not(cache):
    def same(*words):
        a, b = (identity.config_hash(compose(*words, f"hardware.tune={one}")) for one in ("auto", "off"))
        return a == b

    assert same() and same("hardware=fast", "hardware.deterministic=true")
    assert not same("hardware=fast")
    assert same(
        "hardware=fast", "hardware.precision=32-true", "hardware.memory_format=contiguous", "hardware.compile=false"
    )


# no trace


def test_a_timed_run_has_the_bytes_of_one_set_by_hand(tmp_path, cache, always):
    more = ["head.dropout=0.3", "train.ema=0.9", "dataset.augment=digits", "train.accumulate=2", "train.clip=1.0"]
    row, record, timed = run(tmp_path / "a", compose(*FAST, *more, cache=cache))
    assert (row["precision"], row["memory_format"]) == ("bf16-mixed", "channels_last")
    assert {one["seconds_per_step"] > 0 for one in record["timing"]["formats"]} == {True}
    assert len(record["timing"]["formats"]) == 4
    hand = ["hardware.precision=bf16-mixed", "hardware.memory_format=channels_last", "hardware.compile=false"]
    _, record, plain = run(tmp_path / "b", compose(*FAST, *more, *hand, cache=cache))
    assert "timing" not in record and timed == plain
    assert (tmp_path / "a/history.csv").read_bytes() == (tmp_path / "b/history.csv").read_bytes()


WEIGHTINGS = sorted(path.stem for path in (packaged_folder() / "weighting").glob("*.yaml"))
OTHERS = {
    "l2_sp": ["strategy=l2sp"],
    "supcon": ["strategy=from_scratch", "term=[supcon]"],
    "distillation": ["strategy=distill"],
    "deep supervision": ["strategy=from_scratch", "term=[deep_supervision]"],
    "staged": ["strategy=staged"],
    "separate": ["strategy=separate", "tasks=all"],
    "cross-stitch": ["strategy=from_scratch", "tasks=all", "sharing=cross_stitch"],
    "joint": ["dataset=joint", "strategy=multitask", "tasks=[digits_digit,mnist5k_digit]"],
    "balanced": ["strategy=from_scratch", "train.sampler=balanced", "optimizer=sgd"],
}  # fmt: skip
CASES = {name: ["strategy=from_scratch", "tasks=all", f"weighting={name}"] for name in WEIGHTINGS} | OTHERS


@pytest.mark.parametrize("words", CASES.values(), ids=CASES)
def test_timing_changes_nothing_of_a_run(words, always):
    """Three steps after timing are those without it, to the bit: model, optimizer, terms, weighting, random states."""
    cfg = compose(
        *QUICK, "source.train.epochs=1", "hardware=fast", "hardware.compile=false", "head.dropout=0.2", *words
    )
    cfg = pretrain.with_source(cfg)

    def after(timed):
        parts = assemble(cfg)
        usual = execution.machine(parts)
        made = setup(parts, usual)
        torch.manual_seed(5)
        if timed:
            found = execution.timed(parts, usual, made)
            assert len([one for one in found.record["formats"] if one["seconds_per_step"]]) == 4, found.record
        made = dataclasses.replace(made, evaluate_every=100, until=3)
        fit(made, state := State(), Watch())
        modules = {"model": made.model, "weighting": made.weighting, "optimizer": made.optimizer, **made.terms}
        states = {name: module.state_dict() for name, module in modules.items()}
        return flat([states, state.sums, torch.get_rng_state()])

    assert after(True) == after(False)


def flat(found):
    """The bytes of every tensor in nested dicts and lists, and all else in words."""
    if isinstance(found, torch.Tensor):
        return [str(found.dtype), found.detach().cpu().numpy().tobytes()]
    if isinstance(found, dict):
        return [(str(key), flat(value)) for key, value in found.items()]
    return [flat(one) for one in found] if isinstance(found, list | tuple) else repr(found)


# kept for what belongs together


def test_it_is_timed_once(tmp_path, cache, always, monkeypatch):
    _, first, _ = run(tmp_path / "a", compose(*FAST, cache=cache))
    (file,) = (cache / "plans").glob("*.json")
    monkeypatch.setattr(Formats, "choose", None)  # whoever times now fails
    row, second, _ = run(tmp_path / "b", compose(*FAST, "seed=1", cache=cache))
    assert second["timing"] == first["timing"] and row["precision"] == "bf16-mixed"
    with pytest.raises(TypeError):  # another batch size is timed anew
        run(tmp_path / "c", compose(*FAST, "train.batch_size=16", cache=cache))
    with pytest.raises(TypeError):
        run(tmp_path / "d", compose(*FAST, "model.width=8", cache=cache))
    file.write_text(file.read_text().replace(torch.__version__, "0"))
    run(tmp_path / "e", compose(*FAST, "seed=2", cache=cache))  # what a file is about is in its name


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"version": 1}', '{"version": 1, "plan": {"precision": "8"}}', "\x00"]
)
def test_a_broken_file_is_timed_again(tmp_path, cache, always, content):
    run(tmp_path / "a", compose(*FAST, cache=cache))
    (file,) = (cache / "plans").glob("*.json")
    whole = json.loads(file.read_text())
    file.write_text(content)
    run(tmp_path / "b", compose(*FAST, "seed=1", cache=cache))
    assert json.loads(file.read_text())["plan"] == whole["plan"]


def test_what_came_of_too_little_time_holds_for_runs_of_up_to_twice_the_length(tmp_path, cache, always):
    run(tmp_path / "a", compose(*FAST, cache=cache))
    (file,) = (cache / "plans").glob("*.json")
    kept = json.loads(file.read_text())
    kept["timing"]["complete"], kept["plan"]["precision"] = False, "32-true"
    file.write_text(json.dumps(kept))
    row, _, _ = run(tmp_path / "b", compose(*FAST, "train.epochs=24st", cache=cache))
    assert row["precision"] == "32-true"
    row, record, _ = run(tmp_path / "c", compose(*FAST, "train.epochs=25st", cache=cache))
    assert row["precision"] == "bf16-mixed" and record["timing"]["steps"] == 25


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, always, caplog):
    (tmp_path / "cache").write_text("a file")
    with caplog.at_level(logging.INFO, "tlmtl"):
        row, _, _ = run(tmp_path / "a", compose(*FAST, cache=tmp_path / "cache"))
    assert row["precision"] == "bf16-mixed" and row["status"] == "done"
    assert "cannot be kept" in caplog.text


class StopAt(Silent):
    def step(self, step, losses):
        if step == 7:
            raise KeyboardInterrupt


def test_a_resumed_run_goes_on_in_its_own_formats(tmp_path, cache, always, monkeypatch):
    words = [*FAST, "train.checkpoint_every=3st"]
    _, _, whole = run(tmp_path / "whole", compose(*words, cache=cache))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a", compose(*words, cache=cache), StopAt())
    assert RunFolder(tmp_path / "a").record["plan"]["precision"] == "bf16-mixed"
    (file,) = (cache / "plans").glob("*.json")
    file.write_text(file.read_text().replace('"bf16-mixed"', '"32-true"').replace('"channels_last"', '"contiguous"'))
    row, _, again = run(tmp_path / "a", compose(*words, cache=cache))
    assert (row["precision"], row["memory_format"]) == ("bf16-mixed", "channels_last") and again == whole
    row, _, _ = run(tmp_path / "b", compose(*words, cache=cache))  # a new run takes what the cache says
    assert (row["precision"], row["memory_format"]) == ("32-true", "contiguous")


def test_runs_of_a_sweep_agree(main, tmp_path, cache, always):
    """Chosen in the sweep's own process, by its longest run; the children, for which nothing is patched, take it."""
    words = [*FAST, f"output.cache={cache}", "train.batch_size=16,32", "dataset.labels_per_class=1,5"]
    said = main("train", "-m", *words, "sweep.name=s")
    assert said.code == 0 and "bf16-mixed, channels_last takes" in said.all
    rows = list(csv.DictReader((tmp_path / "outputs/sweeps/s/results.csv").open()))
    assert len(rows) == 4 and {(row["precision"], row["memory_format"]) for row in rows} == {
        ("bf16-mixed", "channels_last")
    }
    plans = json.loads((tmp_path / "outputs/sweeps/s/plans.json").read_text())
    assert len(plans) == 1
    said = main("train", "-m", *words, "seed=0,1", "sweep.name=s")  # later runs of that sweep, too
    rows = list(csv.DictReader((tmp_path / "outputs/sweeps/s/results.csv").open()))
    assert len(rows) == 8 and {row["precision"] for row in rows} == {"bf16-mixed"}


def test_a_probe_on_kept_features_times_nothing(tmp_path, cache, always):
    cfg = pretrain.with_source(compose("strategy=linear_probe", *FAST[1:], "train.epochs=60st", cache=cache))
    assert execution.image_steps(assemble(cfg)) == 0
    row, record, _ = run(tmp_path / "a", cfg)
    assert row["precision"] == "32-true" and record["timing"]["formats"] == []


# how it is chosen


class Fake(Formats):
    """Visits take made-up seconds on a made-up clock."""

    def __init__(self, seconds, usual=LAST, apart=(), machine=1.0):
        self.clock, self.step, self.off = 0.0, seconds, apart
        super().__init__(None, None, None, usual)
        self.began = 0.0

    @property
    def spent(self):
        return self.clock

    def _visit(self, format, work, steps, limit=None):
        seen = self.seen.setdefault(format, Seen())
        second = self.step[format]
        seen.steps += [second] * steps
        seen.visits.append(second)
        seen.evaluations += [second / 100]
        seen.apart = "the loss is off" if format in self.off else ""
        self.clock += second * (steps + 2)
        self.longest = max(self.longest, second * (timing.STEPS + 2))


def chosen(seconds, steps=10_000, usual=LAST, apart=(), compiling=False):
    timer = Fake(dict(zip(ALL, seconds, strict=True)), usual, apart)
    return timer.choose(ALL, Work(0, steps, 0), compiling)


def test_the_fastest_that_agrees_is_chosen():
    assert chosen([1.0, 0.8, 0.6, 0.4]).chosen == BOTH
    assert chosen([1.0, 0.8, 0.6, 0.4], apart=[BOTH]).chosen == HALF
    assert "the loss is off" in chosen([1.0, 0.8, 0.6, 0.4], apart=[BOTH]).line
    assert chosen([1.0, 0.8, 0.6, 0.4], apart=[BOTH, HALF, LAST]).chosen == PLAIN
    assert "2.50 times as fast as 32-true, contiguous (1000 ms)" in chosen([1.0, 0.8, 0.6, 0.4]).line


def test_what_saves_less_than_noise_is_not_chosen():
    assert chosen([1.0, 0.8, 0.9, 0.77]).chosen == LAST
    assert chosen([0.79, 0.8, 0.9, 0.9]).chosen == LAST
    assert chosen([0.7, 0.8, 0.9, 0.9]).chosen == PLAIN


def test_short_runs_are_not_timed():
    for steps, words in ((149, "149 step(s) on images are too few"), (500, "about 50 s are too short")):
        found = chosen([0.1, 0.1, 0.1, 0.01], steps=steps)
        assert found.chosen == LAST and words in found.line and not found.record["complete"]


@settings(deadline=None, max_examples=200)
@given(
    st.floats(0.001, 10.0), st.lists(st.floats(0.1, 1.0), min_size=3, max_size=3), st.integers(1, 100_000)
)  # fmt: skip
def test_timing_takes_three_percent_of_a_run_at_most(second, others, steps):
    seconds = dict(zip(ALL, [second, *(second * one for one in others)], strict=True))
    timer = Fake(seconds)
    found = timer.choose(ALL, Work(0, steps, 0), False)
    assert timer.spent <= 0.03 * steps * second
    assert found.record["complete"] == (len(timer.seen) == 4)
    if found.chosen != LAST:
        assert seconds[found.chosen] < 0.95 * seconds[LAST]


def test_a_machine_that_does_other_work_is_not_timed():
    class Busy(Fake):
        def _visit(self, format, work, steps, limit=None):
            super()._visit(format, work, steps)
            if format == HALF:
                self.seen[HALF].visits[-1] *= len(self.seen[HALF].visits)  # 0.5, 1.0, 1.5 s

    timer = Busy(dict(zip(ALL, [1.0, 0.8, 0.5, 0.4], strict=True)))
    found = timer.choose(ALL, Work(0, 10_000, 0), False)
    assert found.chosen == LAST and "made the same step take 500 to 1500 ms" in found.line
    assert not found.record["trusted"] and not found.record["complete"]


@pytest.mark.slow  # depends on how fast steps are before they are made slow
def test_steps_that_turn_out_slow_end_the_timing(monkeypatch):
    """Steps take a hundred seconds from the second visit on: one of them, and no more."""
    monkeypatch.setattr(timing, "LEAST", 0.0)
    monkeypatch.setattr(hardware, "takes_16_bits", lambda device: True)
    cfg = compose(*FAST, "train.epochs=2000st")
    parts = assemble(cfg)
    usual = execution.machine(parts)
    made = setup(parts, usual)
    timer = Formats(made, lambda one: execution.machine(parts, vars(one)), execution.on, LAST)
    real, late = timing.time.perf_counter, [0.0]
    watch = trial.Stopwatch.stepped

    def slow(self, state, losses):
        late[0] += 100.0 if timer.longest else 0.0
        watch(self, state, losses)

    monkeypatch.setattr(timing.time, "perf_counter", lambda: real() + late[0])
    monkeypatch.setattr(trial.Stopwatch, "stepped", slow)
    found = timer.choose(ALL, Work(0, 100_000, 0), False)
    assert late[0] == 100.0 and found.chosen == LAST
    assert [one["memory_format"] for one in found.record["formats"]] == ["contiguous"]


def test_compiling_is_tried_in_long_runs_alone():
    calls = []

    class Compiled(Fake):
        def _visit(self, format, work, steps, limit=None):
            calls.append(format)
            super()._visit(dataclasses.replace(format, compiled=False), work, steps)

    for steps, tried in ((1_000, False), (100_000, True)):
        calls.clear()
        timer = Compiled(dict(zip(ALL, [1.0, 0.8, 0.6, 0.4], strict=True)))
        timer.choose(ALL, Work(0, steps, 0), True)
        assert (dataclasses.replace(BOTH, compiled=True) in calls) == tried
        assert timer.complete == tried


def seen(loss=1.0, norm=2.0, outputs=(1.0, 2.0)):
    return Seen([1.0], [1.0], [1.0], {"t": loss}, norm, torch.tensor(outputs))


@pytest.mark.parametrize(
    ("other", "word"),
    [
        (seen(), ""),
        (seen(loss=1.019), ""),
        (seen(loss=1.021), "loss of t"),
        (seen(loss=float("nan")), "loss of t"),
        (seen(norm=3.9), ""),
        (seen(norm=0.9), "norm of the gradient"),
        (seen(norm=4.1), "norm of the gradient"),
        (seen(norm=float("nan")), "norm of the gradient"),
        (seen(outputs=(1.0, 2.5)), "outputs of an evaluation"),
        (seen(outputs=(1.0, float("inf"))), "outputs of an evaluation"),
    ],
)
def test_formats_agree_within_the_tolerance(other, word):
    found = trial.difference(seen(), other)
    assert (word in found) if word else found == ""


def test_a_format_that_fails_is_not_chosen(tmp_path, cache, always, monkeypatch):
    monkeypatch.undo()
    for name, value in (
        ("LEAST", 0.0),
        ("FEWEST", 1),
        ("SHARE", 1e9),
        ("ROUNDS", 1),
        ("COMPILING", 1e12),
        ("UNREST", 1e9),
    ):
        monkeypatch.setattr(timing, name, value)
    monkeypatch.setattr(hardware, "takes_16_bits", lambda device: True)
    real = hardware.machine

    def machine(settings, threads, advised="contiguous", plan=None):
        if (plan or {}).get("precision") == "bf16-mixed":
            raise RuntimeError("could not create a primitive")
        return real(settings, threads, advised, plan)

    monkeypatch.setattr(hardware, "machine", machine)
    row, record, _ = run(tmp_path / "a", compose(*FAST, cache=cache))
    assert row["precision"] == "32-true" and row["status"] == "done"
    assert [one["apart"] for one in record["timing"]["formats"] if one["precision"] != "32-true"] == [
        "RuntimeError: could not create a primitive"
    ] * 2


def test_compiling_is_not_left_open_where_it_hides_what_a_weighting_looks_at():
    words = ["strategy=from_scratch", "tasks=all", "hardware=fast", "weighting=upgrad"]
    parts = assemble(compose(*words, "weighting.level=features"))
    assert execution.machine(parts, {"compiled": True}).plan["compiled"] is False
    parts = assemble(compose(*words, "weighting.level=parameters"))
    assert execution.machine(parts, {"compiled": True}).plan["compiled"] is True


def test_a_device_without_16_bits_is_not_asked(monkeypatch):
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    assert hardware.takes_16_bits(torch.device("cpu")) is False
    assert hardware.takes_16_bits(torch.device("meta")) is False

"""`sweep.dry_run=true`: what a sweep would run, why, and how long that may take. Nothing is written."""

import contextlib
import sys
import time
from collections.abc import Mapping

from tlmtl import execution
from tlmtl.assemble import assemble, setup
from tlmtl.errors import TlmtlError
from tlmtl.loop import fit
from tlmtl.results import RunFolder
from tlmtl.sweep import fuse
from tlmtl.sweep.limits import limits_of
from tlmtl.sweep.plan import Job, Sweep
from tlmtl.sweep.pool import workers_for
from tlmtl.sweep.show import short
from tlmtl.sweep.timeleft import clock
from tlmtl.training import State, Watch

STEPS, PATIENCE = 8, 10.0  # steps that are timed, and seconds after which fewer will do


def tell(sweep: Sweep) -> None:
    """Print the jobs, and an estimate of the time that those to be run may take together."""
    rows = [(item.label, item.key, _why(item)) for item in sweep.jobs]
    room = max(len(label) for label, _, _ in rows)
    if sys.stdout.isatty():
        from rich.console import Console

        room = min(room, max(12, Console().width - 30))
    for label, key, why in rows:
        print(f"{short(label, room):<{room}}  {key}  {why}")
    for label, other in sweep.equal:
        print(f"{short(label, room):<{room}}  {'':12}  equals {other}")
    missing = sweep.missing
    print(f"\n{len(rows)} run(s): {len(missing)} to do, {len(rows) - len(missing)} there already. {sweep.folder}")
    if missing:
        workers = workers_for(missing)
        print(_estimate(sweep, missing, workers))
    print("A dry run: nothing was run or written.")


def _why(item: Job) -> str:
    if item.reason:
        error = str(RunFolder(item.folder).record.get("error") or "") if item.reason.endswith("before") else ""
        return item.reason + (f": {short(error, 80)}" if error else "")
    return f"failed: {short(item.note, 80)}" if item.state == "failed" else "there already"


def _estimate(sweep: Sweep, missing: list[Job], workers: int) -> str:
    """From finished runs of the sweep, by group where there are any of it; else from a few steps of the first job."""
    took: dict[str, list[float]] = {}
    shares = False  # whether what they took is their share of a unit's
    for path in sweep.folder.glob("*/run.json"):
        record = RunFolder(path.parent).record
        costs = record.get("costs") or {}
        if record.get("status") == "done" and costs:
            shares = shares or bool((record.get("plan") or {}).get("fused_with"))
            took.setdefault(record.get("group_id", ""), []).append(costs["train_seconds"] + costs["eval_seconds"])
    if took:
        count = sum(map(len, took.values()))
        usual = sum(map(sum, took.values())) / count
        seconds = [sum(own) / len(own) if (own := took.get(item.group)) else usual for item in missing]
        how = f"going by {count} run(s) of this sweep that are there"
    else:
        first = missing[0]
        try:
            step, evaluations = _timed(first)
        except Exception as error:  # a dry run says what it can, whatever the job's own code does
            text = str(error) if isinstance(error, TlmtlError) else f"{type(error).__name__}: {error}"
            return f"No estimate of the time: the first steps of {first.label} ended with: {short(text, 300)}"
        seconds = [step * item.steps + evaluations for item in missing]
        how = f"going by a few training steps of the first job, {first.label}; others are taken to be as fast"
    of = {item.key: took for item, took in zip(missing, seconds, strict=True)}
    whole = sum if shares else max
    together = [
        whole(of[item.key] for item in unit) for unit in fuse.units(missing, workers, limits_of(missing[0].cfg))
    ]
    left = max(sum(together) / workers, *together)
    source = (
        ""
        if all("path" in item.cfg.source or "dataset" not in item.cfg.source for item in missing)
        else (" Pre-training of the source, once, is not counted.")
    )
    return f"About {clock(left)} with {workers} at a time, {how}.{source}"


class _Timer(Watch):
    """Ends a run after a few steps and one evaluation."""

    def __init__(self, made) -> None:
        self.made, self.began, self.spent = made, time.monotonic(), list[float]()

    def stepped(self, state: State, losses: Mapping[str, float]) -> None:
        self.spent.append(state.seconds["train"])
        enough = len(self.spent) >= STEPS or time.monotonic() - self.began > PATIENCE
        self.made.evaluate_every = state.step if enough else state.step + 1

    def evaluated(self, state: State, metrics: object, scores: object) -> None:
        raise _Enough


class _Enough(Exception):
    pass


def _timed(item: Job) -> tuple[float, float]:
    """Seconds of a step, and of all evaluations of the run; trained in memory, from random parameters if need be."""
    parts = assemble(item.cfg, with_source="path" in item.cfg.source or "dataset" not in item.cfg.source)
    made = setup(parts, execution.machine(parts))
    evaluations = made.total / made.evaluate_every + 2  # validation and test are predicted at the end
    state, timer = State(), _Timer(made)
    with contextlib.suppress(_Enough):
        fit(made, state, timer)
    warm = len(timer.spent) > 1  # the first step is slower than the others
    step = (timer.spent[-1] - timer.spent[0]) / (len(timer.spent) - 1) if warm else timer.spent[0]
    return step, evaluations * state.seconds["eval"]

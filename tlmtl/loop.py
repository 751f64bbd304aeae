"""The only training loop. It names no strategy, term, weighting or sharing: they reach it as plain objects.

In the order a reader expects: batch, which parameters train now, learning rate, forward, losses, terms, all finite?,
backward, clip, step; now and then evaluate on validation and save.
"""

import math
import time
from collections.abc import Iterator
from contextlib import closing

from torch import Tensor

from tlmtl.data.feed import ahead
from tlmtl.data.streams import Batch, generator_for
from tlmtl.evaluation import Predictions, evaluate
from tlmtl.forward import again, forward, losses_of, pieces_of, terms_of, total
from tlmtl.sharing.base import Sharing
from tlmtl.training import Setup, State, Watch, not_finite
from tlmtl.validation import validated


def fit(setup: Setup, state: State, watch: Watch) -> None:
    """Train from `state.step` until the set-up's end, or until validation stops getting better."""
    if len(state.stopped) == len(setup.branches):
        return
    first = state.step
    with closing(ahead(lambda draw: _batch(setup, *draw), _draws(setup, state.step), setup.lookahead)) as feed:
        for batch, waited in feed:
            began = time.perf_counter()
            rate = setup.groups.begin(state.step, state.step == first)
            if state.stopped:
                setup.branches.rest(state.stopped)
            losses = _step(setup, batch, state)
            if setup.ema is not None:
                setup.ema.update_parameters(setup.model)
            state.step += 1
            for part in batch.values():
                state.examples += len(part.index)
                for task, count in part.labels.items():
                    state.labels[task] = state.labels.get(task, 0) + count
            state.seconds["wait"] += waited
            state.seconds["train"] += waited + time.perf_counter() - began
            watch.stepped(state, losses)
            if state.step % setup.evaluate_every == 0 or state.step == setup.total:
                _validate(setup, state, watch, rate)
            stop = watch.stop_asked(state)
            if stop or (state.step % setup.checkpoint_every == 0 and state.step < setup.total):
                watch.save(state)
            if stop:
                raise stop
            if len(state.stopped) == len(setup.branches):
                break


def _draws(setup: Setup, step: int) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """What every step from `step` on draws from the streams."""
    end = setup.total if setup.until is None else setup.until
    while step < end:
        epoch, offset = divmod(step, setup.steps_per_epoch)
        draws = setup.plan(epoch)[offset:]
        yield from zip(range(step, end), draws, strict=False)
        step += len(draws)


def _batch(setup: Setup, step: int, draw: dict[str, Tensor]) -> Batch:
    """The parts of a step's batch, augmented as that step has them, on the device."""
    made = {}
    for name, indices in draw.items():
        part = setup.streams[name].part(indices, generator_for("augment", setup.seed, name, step))
        made[name] = part.to(setup.device, setup.memory_format)
    return made


def _step(setup: Setup, batch: Batch, state: State) -> dict[str, float]:
    """One update. Returns the losses and terms by name. Raises TrainingError when one is not finite."""
    setup.optimizer.zero_grad(set_to_none=True)
    setup.weighting.begin_step()
    found: dict[str, float] = {}
    pieces = pieces_of(setup, batch)
    for piece in pieces:
        outputs = forward(setup, piece, state)
        losses = losses_of(setup, batch, piece, outputs)
        extra = terms_of(setup, batch, piece, outputs, state.step)
        for name, loss in [*losses.items(), *extra.items()]:
            found[name] = found.get(name, 0.0) + (value := float(loss.detach()))
            if not math.isfinite(value):
                what = "term" if name in extra else "loss of task"
                raise not_finite(f"The {what} '{name}'", value, state.step + 1, setup.total)
        features = next(iter(outputs.values())).features if len(outputs) == 1 else None
        weights = setup.weighting.backward(losses, total(extra.values()), setup.groups.shared, features)
        if len(setup.tasks) > 1:
            state.note("weight", weights)
    if setup.clip is not None:
        setup.branches.clip(setup.optimizer, setup.clip)
    setup.optimizer.step()
    if setup.weighting.looks_again:
        setup.weighting.after_step(again(setup, batch, pieces, state))
    state.note("loss", found)
    return found


def _validate(setup: Setup, state: State, watch: Watch, rate: float) -> None:
    """Evaluate on validation, keep the best model, and stop what has not got better for `patience` steps."""
    began = time.perf_counter()
    model: Sharing = setup.ema.module if setup.ema is not None else setup.model  # type: ignore[assignment]
    tasks = {name: setup.tasks[name] for name in setup.branches.active(setup.tasks, state.stopped)}
    said: dict[str, Predictions] = {}
    for stream in setup.validation.values():
        here = {name: tasks[name] for name in stream.mask if name in tasks}
        found = evaluate(model, stream, here, setup.autocast, setup.device, setup.memory_format)
        said.update(dict.fromkeys(here, found))
    validated(setup, state, watch, rate, model, said, began)

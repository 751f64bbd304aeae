"""The only training loop. It names no strategy, term or weighting: they reach it as plain objects.

In the order a reader expects: batch, which parameters train now, learning rate, forward, losses, terms, all finite?,
backward, clip, step; now and then evaluate on validation and save.
"""

import math
import time
from collections.abc import Iterator
from contextlib import closing

import torch
from torch import Tensor, nn

from tlmtl.data.feed import ahead
from tlmtl.data.streams import Batch, generator_for, plan
from tlmtl.errors import TrainingError
from tlmtl.evaluation import evaluate, measure, selection_score
from tlmtl.models.encoder import encode
from tlmtl.terms.base import Step, layers_of
from tlmtl.training import Setup, State, Watch


def fit(setup: Setup, state: State, watch: Watch) -> None:
    """Train from `state.step` until the run's end, or until validation stops getting better."""
    if state.stopped:
        return
    first = state.step
    with closing(ahead(lambda draw: _batch(setup, *draw), _draws(setup, state.step), setup.lookahead)) as feed:
        for batch, waited in feed:
            began = time.perf_counter()
            rate = setup.groups.begin(state.step, state.step == first)
            losses = _step(setup, batch, state.step)
            if setup.ema is not None:
                setup.ema.update_parameters(setup.model)
            state.step += 1
            state.examples += len(batch["target"].index)
            for name, value in losses.items():
                total, count = state.sums.get(name, (0.0, 0))
                state.sums[name] = (total + value, count + 1)
            state.seconds["wait"] += waited
            state.seconds["train"] += waited + time.perf_counter() - began
            watch.stepped(state, losses)
            if state.step % setup.evaluate_every == 0 or state.step == setup.total:
                _validate(setup, state, watch, rate)
            if state.step % setup.checkpoint_every == 0 and state.step < setup.total:
                watch.save(state)
            if state.stopped:
                break


def _draws(setup: Setup, step: int) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """What every step from `step` on draws from the streams."""
    sizes = {name: len(stream) for name, stream in setup.streams.items()}
    while step < setup.total:
        epoch, offset = divmod(step, setup.steps_per_epoch)
        draws = plan(sizes, setup.batch_size, setup.seed, epoch, setup.draw_weights)[offset:]
        yield from zip(range(step, setup.total), draws, strict=False)
        step += len(draws)


def _batch(setup: Setup, step: int, draw: dict[str, Tensor]) -> Batch:
    """The parts of a step's batch, augmented as that step has them, on the device."""
    made = {}
    for name, indices in draw.items():
        part = setup.streams[name].part(indices, generator_for("augment", setup.seed, name, step))
        made[name] = part.to(setup.device, setup.memory_format)
    return made


def _step(setup: Setup, batch: Batch, number: int) -> dict[str, float]:
    """One update. Returns the losses and terms by name. Raises TrainingError when one is not finite."""
    setup.optimizer.zero_grad(set_to_none=True)
    found: dict[str, float] = {}
    pieces = {name: part.chunks(setup.accumulate) for name, part in batch.items()}
    for i in range(len(pieces["target"])):
        piece = {name: parts[min(i, len(parts) - 1)] for name, parts in pieces.items()}
        losses, extra = _losses(setup, batch, piece, number)
        for name, loss in [*losses.items(), *extra.items()]:
            found[name] = found.get(name, 0.0) + (value := float(loss.detach()))
            if not math.isfinite(value):
                what = "term" if name in extra else "loss of task"
                raise TrainingError(
                    f"The {what} '{name}' became {value} at step {number + 1} of {setup.total}. A smaller optimizer.lr, "
                    "train.clip=1.0 or a longer schedule.warmup may help."
                )
        total = torch.stack(list(extra.values())).sum() if extra else None
        setup.weighting.backward(losses, total, setup.groups.shared)
    if setup.clip is not None:
        nn.utils.clip_grad_norm_([p for group in setup.optimizer.param_groups for p in group["params"]], setup.clip)
    setup.optimizer.step()
    return found


def _losses(setup: Setup, batch: Batch, piece: Batch, number: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Task losses and terms of one piece of a batch, each scaled by its share, so that the pieces sum to the batch's."""
    forward, layers = setup.forward or setup.model, layers_of(list(setup.terms.values()))
    with setup.autocast():
        outputs = {name: forward(part.input, list(part.targets), layers) for name, part in piece.items()}
        theirs = {}
        if setup.source_model is not None:
            with torch.no_grad():
                theirs = {name: encode(setup.source_model, part.input, layers) for name, part in piece.items()}
    part = piece["target"]
    losses = {}
    for name, target in part.targets.items():
        loss = setup.tasks[name].loss(outputs["target"].heads[name], target, part.mask[name])
        whole = batch["target"].mask[name]
        losses[name] = loss if part is batch["target"] else loss * (part.mask[name].sum() / whole.sum())
    step = Step(setup.model, piece, outputs, theirs, number, setup.total)
    share = len(part.index) / len(batch["target"].index)
    return losses, {name: term(step) * share for name, term in setup.terms.items()}


def _validate(setup: Setup, state: State, watch: Watch, rate: float) -> None:
    """Evaluate on validation, keep the best model, and stop when it has not got better for `patience` steps."""
    began = time.perf_counter()
    model = setup.ema.module if setup.ema is not None else setup.model
    predictions = evaluate(
        model, setup.validation, list(setup.tasks), setup.autocast, setup.device, setup.memory_format
    )
    metrics = {name: measure(task, predictions) for name, task in setup.tasks.items()}
    score = selection_score(setup.tasks, predictions, metrics)
    epoch = state.step / setup.steps_per_epoch
    rows = [("train", name, "loss", total / count) for name, (total, count) in state.sums.items()]
    rows += [("val", task, name, value) for task, values in metrics.items() for name, value in values.items()]
    rows += [("train", "", "lr", rate), ("val", "", "score", score)]
    state.history += [[state.step, epoch, *row] for row in rows]
    state.sums = {}
    if score > state.best_score:
        state.best_score, state.best_step = score, state.step
        state.best_model = {name: t.detach().cpu().clone() for name, t in model.state_dict().items()}
    elif setup.patience is not None and state.step - state.best_step >= setup.patience:
        state.stopped = True
    for term in setup.terms.values():
        term.after_validation(metrics)
    state.seconds["eval"] += time.perf_counter() - began
    watch.evaluated(state, metrics, score)

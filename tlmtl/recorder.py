"""What looks on while a run trains: history, checkpoints, progress, tracker; and the way back from a checkpoint."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tlmtl import checkpoint
from tlmtl.logger.tracking import Tracking
from tlmtl.progress import Progress
from tlmtl.results import RunFolder
from tlmtl.stopping import Stop
from tlmtl.training import Setup, State, Watch

log = logging.getLogger("tlmtl")


class Recorder(Watch):
    """Writes down what a loop does: history, checkpoints, progress."""

    def __init__(
        self,
        folder: RunFolder,
        made: Setup,
        progress: Progress,
        belongs: dict[str, Any],  # what a checkpoint must have been made with, by name, to be gone on with
        stop: Stop,
        tracking: Tracking,
    ) -> None:
        self.folder, self.made, self.belongs, self.stop = folder, made, belongs, stop
        self.progress, self.tracking = progress, tracking
        self.whole: list[Path] = []  # checkpoints that are known to be good, the newest last

    def stepped(self, state: State, losses: Mapping[str, float]) -> None:
        self.progress.step(state.step, losses)

    def evaluated(self, state: State, metrics: Mapping[str, Mapping[str, float]], scores: Mapping[str, float]) -> None:
        self.tracking.evaluated(state.history)
        self.progress.evaluated(state.step, metrics, {**state.best_score, **scores})  # those that rest: their best

    def stop_asked(self, state: State) -> Exception | None:
        where = f"after step {state.step} of {self.made.total}, with a checkpoint in {self.folder.path}"
        return self.stop.error(where)

    def save(self, state: State) -> None:
        """Write a checkpoint; the one before is kept, older ones go once the new one is whole."""
        self.folder.checkpoint.mkdir(exist_ok=True)
        modules = {name: module.state_dict() for name, module in _modules(self.made).items()}
        modules["model"] = {n: t for n, t in modules["model"].items() if n not in self.made.branches.constant}
        path = self.folder.checkpoint / f"{state.step}.pt"
        checkpoint.save(path, {"modules": modules, "state": vars(state), "belongs": self.belongs})
        self.whole = [*[one for one in self.whole if one != path], path][-2:]
        for old in self.folder.checkpoints():
            if old not in self.whole:
                old.unlink(missing_ok=True)
        self.folder.write_history(state.history)

    def restore(self) -> State | None:
        """The state of the newest checkpoint that is whole, put back; None where there is none of this very data, source
        and program."""
        found = self.folder.checkpoints()
        for path in found:
            try:
                saved = checkpoint.load(path)
            except checkpoint.BrokenError as error:
                log.warning("The checkpoint %s cannot be used (%s).", path, error)
                continue
            changed = [name for name, value in self.belongs.items() if saved["belongs"].get(name) != value]
            if changed:
                log.warning("The checkpoint was made with another %s: starting from the beginning.", ", ".join(changed))
                return None
            saved["modules"]["model"] = {**self.made.model.state_dict(), **saved["modules"]["model"]}
            for name, module in _modules(self.made).items():
                module.load_state_dict(saved["modules"][name])
            self.whole = [path]
            log.info("Going on after step %d of %d.", saved["state"]["step"], self.made.total)
            return State(**saved["state"])
        if found:
            log.warning("No checkpoint of this run can be used: starting from the beginning.")
        return None


def _modules(made: Setup) -> dict[str, Any]:
    found: dict[str, Any] = {"model": made.model, "optimizer": made.optimizer, "weighting": made.weighting}
    found.update({f"term/{name}": term for name, term in made.terms.items()})
    return found if made.ema is None else {**found, "ema": made.ema}

"""TensorBoard's event files in a run's folder, through torch's own writer."""

from collections.abc import Iterator, Mapping
from typing import Any

from tlmtl.logger.base import Run, Tracker, needs


class TensorBoard(Tracker):
    """Event files in `tensorboard/`, with the config as hyper-parameters: `tensorboard --logdir outputs`.

    Every evaluation is on the disk before a checkpoint is, so a resumed run has only to purge what came after its step.
    """

    def __init__(self) -> None:
        needs("tensorboard", "tensorboard")

    def open(self, run: Run) -> int:
        from torch.utils.tensorboard import SummaryWriter

        place = run.folder / "tensorboard"
        purge = run.step + 1 if place.is_dir() else None
        self.config = {**run.config, "run": run.name, "group": run.group}
        self.writer = SummaryWriter(str(place), purge_step=purge)
        return run.step if purge is not None else 0

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self, done: bool, step: int, results: Mapping[str, float]) -> None:
        if done and results:
            from torch.utils.tensorboard.summary import hparams

            self.log(step, results)
            for summary in hparams(dict(_leaves(self.config)), dict(results)):  # `add_hparams` would begin another log
                self.writer._get_file_writer().add_summary(summary, step)
        self.writer.close()


def _leaves(node: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, bool | int | float | str]]:
    """`a/b` -> value; what TensorBoard has no type for as text."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{key}/")
        else:
            yield f"{above}{key}", value if isinstance(value, bool | int | float | str) else str(value)

"""TensorBoard's event files in a run's folder, through Fabric's logger."""

from collections.abc import Mapping

from tlmtl.logger.base import Run, Tracker, needs


class TensorBoard(Tracker):
    """Event files in `tensorboard/`, with the config as hyper-parameters: `tensorboard --logdir outputs`.

    Every evaluation is on the disk before a checkpoint is, so a resumed run has only to purge what came after its step.
    """

    def __init__(self) -> None:
        needs("tensorboard", "tensorboard")

    def open(self, run: Run) -> int:
        from lightning_fabric.loggers import TensorBoardLogger

        place = run.folder / "tensorboard"
        purge = run.step + 1 if place.is_dir() else None
        self.config = {**run.config, "run": run.name, "group": run.group}
        self.logger = TensorBoardLogger(place, name="", version="", purge_step=purge)
        return run.step if purge is not None else 0

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.logger.log_metrics(dict(values), step)
        self.logger.experiment.flush()

    def close(self, done: bool, step: int, results: Mapping[str, float]) -> None:
        if done:
            self.logger.log_hyperparams(self.config, dict(results), step)
        self.logger.finalize("success" if done else "aborted")

"""Weights & Biases, through its own library, with everything switched off that a run's numbers do not need."""

import netrc
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, cast
from urllib.parse import urlsplit

from tlmtl.errors import ConfigError, nearest
from tlmtl.logger.base import Run, Tracker, needs

MODES = ("online", "offline", "disabled")
WAIT = 30.0  # seconds for an answer of the server at the start


class WeightsAndBiases(Tracker):
    """A run of W&B's in the folder of ours, its id from ours, so that a resumed run is the same one there.

    Nothing but numbers and the config goes there: no console output, code, git state, machine or package list, and no crash
    reports. The API key is W&B's own affair (`wandb login`) and has no key in a config.

    Arguments:
        mode: online, offline (`wandb sync RUN/wandb/offline-run-*` sends it later) or disabled.
        project, entity: where it is shown; the entity is the key's own when null.
        tags: beside the strategy's name.
    """

    def __init__(
        self, project: str = "tlmtl", entity: str | None = None, mode: str = "offline", tags: list[str] | None = None
    ) -> None:
        if mode not in MODES:
            raise ConfigError(
                f"'logger.mode' should be one of {', '.join(MODES)}. Found '{mode}'.{nearest(mode, list(MODES))}"
            )
        if not re.fullmatch(r"[^/\\#?%:]{1,128}", project):
            raise ConfigError(
                f"'logger.project' should be a name of up to 128 characters without / \\ # ? % :. Found '{project}'."
            )
        if any(not 1 <= len(tag) <= 64 for tag in tags or []):
            raise ConfigError(f"'logger.tags' should be words of 1 to 64 characters. Found {tags}.")
        needs("wandb", "wandb")
        if mode == "online" and not _has_key():
            raise ConfigError(
                "'logger.mode=online' needs an API key of W&B, and none was found: `wandb login`, or set WANDB_API_KEY. "
                "Without one, logger.mode=offline keeps the run for `wandb sync`."
            )
        self.project, self.entity, self.mode, self.tags = project, entity, mode, list(tags or [])

    def open(self, run: Run) -> int:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read as the library is imported
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        name = re.sub(r"[^\w-]", "-", run.name)[-64:]
        for old in (run.folder / "wandb").glob(f"offline-run-*-{name}"):
            shutil.rmtree(old, ignore_errors=True)  # the whole history is told again
        self.wandb: Any = wandb
        self.run = wandb.init(
            project=self.project,
            entity=self.entity,
            mode=cast(Any, self.mode),
            dir=str(run.folder),
            id=name,
            name=name,
            resume="allow" if self.mode == "online" else None,
            group=run.group,
            tags=[run.strategy[:64], *self.tags],
            config=run.config,
            reinit="create_new",  # beside one of the caller's own in a notebook
            settings=wandb.Settings(
                silent=True,
                quiet=True,
                console="off",
                init_timeout=WAIT,
                disable_code=True,
                disable_git=True,
                disable_job_creation=True,
                x_disable_machine_info=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
            ),
        )
        return 0  # W&B leaves out steps that its server has

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def close(self, done: bool, step: int, results: Mapping[str, float]) -> None:
        self.run.summary.update(dict(results))
        self.run.finish(exit_code=0 if done else 1)
        if self.wandb.run is None:  # no other run of this process is on W&B
            self.wandb.teardown()  # the file is whole after that alone; a child of a sweep may end without its exit handlers


def _has_key() -> bool:
    """Whether W&B would find a key without asking for one: it asks on a terminal, and a run is not a dialogue."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    for place in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        with suppress(OSError, netrc.NetrcParseError):
            if place and netrc.netrc(os.path.expanduser(place)).authenticators(host):  # noqa: PTH111
                return True
    return False

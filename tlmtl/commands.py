"""What stands behind `tlmtl train`, `check`, `list` and tab completion. Hydra is imported here, torch only by what needs it."""

import contextlib
import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from tlmtl.errors import ConfigError, nearest
from tlmtl.presets import GROUP_NAMES, packaged_folder, presets, user_folder

# Flags of Hydra's that take a value; `--info` may.
VALUED = ("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd")
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


def flags_first(words: list[str]) -> list[str]:
    """Flags (with their values) before overrides: Hydra 1.3 rejects a flag between overrides."""
    flags, overrides, i = [], [], 0
    while i < len(words):
        word = words[i]
        if not word.startswith("-") or "=" in word.split("--")[0]:
            overrides.append(word)
        else:
            flags.append(word)
            takes = word in VALUED or (word in ("--info", "-i") and words[i + 1 : i + 2] and words[i + 1] in INFO)
            if takes and i + 1 < len(words):
                i += 1
                flags.append(words[i])
        i += 1
    return [*flags, *overrides]


def train(words: list[str]) -> int:
    """`tlmtl train`: one run, or a sweep. Returns the exit code."""
    from tlmtl.stopping import watching

    with watching():  # signals while a sweep is planned, too
        return with_hydra(words, _run)


def check(words: list[str]) -> int:
    """`tlmtl check`: what a data set holds. Returns 1 when there is something in it that `tlmtl train` would refuse."""
    from tlmtl.check import command

    rest, flags = command.parse(words)
    return with_hydra(rest, lambda cfg: command.run(cfg, flags), "check")


def with_hydra(words: list[str], act: Callable[[Any], int], command: str = "train") -> int:
    """Hydra composes, this program checks, and `act` is given the config of one run. Returns the exit code, which is
    what `act` returns.

    Arguments:
        command: the one that was typed; only `train` makes sweeps and goes on with runs.
    """
    from hydra._internal.utils import get_args_parser
    from hydra.types import RunMode

    from tlmtl import composition
    from tlmtl.explain import explain
    from tlmtl.guard import guard_search_path
    from tlmtl.loader import known_keys, loading

    composition.register()
    parser = get_args_parser()
    parser.error = _wrong_flag  # type: ignore[method-assign]
    args = parser.parse_args(flags_first(words))
    show_log()
    with loading(args.config_dir) as loader:
        try:
            args.overrides = [as_space(all_folds(word, args.multirun)) for word in args.overrides]
            _check_flags(args, command)
            if not args.shell_completion:
                composition.check_choices(args.overrides)
            if args.config_name:
                guard_search_path(loader, args.config_name)
            if args.cfg or args.info or args.shell_completion or args.hydra_help:
                return _show(args, parser)
            cfg = _composed(args, loader)
            if cfg.hydra.mode is RunMode.MULTIRUN:
                return _swept(cfg, loader)
            return act(composition.finish(cfg, args.overrides))
        except Exception as error:
            explained = explain(error, args.overrides, known_keys)
            if explained is error:
                raise
            raise explained from error


def _show(args: Any, parser: Any) -> int:
    """What Hydra itself prints: a config, what is known of it, completions. Returns the exit code."""
    from hydra.core.global_hydra import GlobalHydra

    hydra: Any = GlobalHydra.instance().hydra
    asked = {"config_name": args.config_name or "config", "overrides": args.overrides}
    try:
        if args.hydra_help:
            hydra.hydra_help(config_name=asked["config_name"], args_parser=parser, args=args)
        elif args.cfg:
            hydra.show_cfg(**asked, cfg_type=args.cfg, package=args.package, resolve=args.resolve)
        elif args.shell_completion:
            hydra.shell_completion(**asked)
        else:
            hydra.show_info(args.info, **asked)
    except SystemExit as error:
        return int(error.code or 0)
    return 0


def _composed(args: Any, loader: Any) -> Any:
    """What Hydra makes of the command line, once, looked at before Hydra acts on it."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.types import RunMode

    from tlmtl import composition
    from tlmtl.guard import guard
    from tlmtl.resuming import agreed

    args.overrides = agreed(args.overrides, composition.compose)
    if args.multirun:
        args.overrides.append("hydra.mode=MULTIRUN")
    mode = RunMode.MULTIRUN if args.multirun else RunMode.RUN
    cfg = loader.load_configuration(args.config_name or "config", args.overrides, mode, validate_sweep_overrides=False)
    guard(cfg.hydra, args.overrides)
    cfg.hydra.mode = cfg.hydra.mode or mode  # an experiment may be a sweep
    parsed = OverridesParser.create().parse_overrides(args.overrides)
    loader.validate_sweep_overrides_legal(parsed, cfg.hydra.mode, from_shell=True)
    if cfg.hydra.mode is RunMode.RUN:
        HydraConfig.instance().set_config(cfg)  # for configs that refer to it; which makes it read-only
    return cfg


def _swept(cfg: Any, loader: Any) -> int:
    """Hand a sweep to Hydra's sweeper, which hands its jobs to this program's launcher. Returns the exit code."""
    from hydra._internal.callbacks import Callbacks
    from hydra.core.plugins import Plugins
    from hydra.types import HydraContext
    from omegaconf import OmegaConf

    context = HydraContext(config_loader=loader, callbacks=Callbacks())
    words: Any = OmegaConf.to_container(cfg.hydra.overrides.task, resolve=False)
    sweeper = Plugins.instance().instantiate_sweeper(hydra_context=context, task_function=lambda _: None, config=cfg)
    try:
        sweeper.sweep(arguments=words)
    except SystemExit as error:
        return int(error.code or 0)
    return 0


def all_folds(word: str, multirun: bool) -> str:
    """`dataset.fold=all/5` as `dataset.fold=1/5,2/5,...`; any other override as it is. Raises ConfigError without -m."""
    found = re.fullmatch(r"(\+*dataset\.fold=)all/(\d{1,4})", word)
    if not found:
        return word
    if not multirun:
        raise ConfigError(f"'{word}' is a sweep of {found[2]} runs: add -m.")
    return found[1] + ",".join(f"{k}/{found[2]}" for k in range(1, int(found[2]) + 1))


def as_space(word: str) -> str:
    """`tune.space.KEY=interval(1,2)` with its value as a text, for Hydra would sweep it; any other override as it is."""
    found = re.fullmatch(r"\+*(tune\.space\.[^=]+)=(.+)", word, re.DOTALL)
    if not found:
        return word
    key, value = found.groups()
    if value == "null" or value[0] in "'\"[{":
        return f"++{key}={value}"  # a space may grow
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'++{key}="{escaped}"'


def _wrong_flag(message: str) -> NoReturn:
    raise ConfigError(f"{message[:1].upper()}{message[1:]}. `tlmtl train --help` shows the flags there are.")


def _check_flags(args: Any, command: str) -> None:
    """Raises ConfigError for flags that cannot be had, or not together; `--cfg` and `--info` show a sweep's first job."""
    from tlmtl import composition

    if command != "train" and args.multirun:
        raise ConfigError(
            f"`tlmtl {command}` looks at one config: leave out -m (--multirun), which is for `tlmtl train`."
        )

    if args.config_dir and not Path(args.config_dir).is_dir():
        raise ConfigError(f"--config-dir should be a folder. Found nothing at {args.config_dir}.")
    if args.config_path or args.experimental_rerun:
        raise ConfigError(
            "--config-path and --experimental-rerun are not supported: --config-dir DIR adds configs of your own, "
            "resume=FOLDER goes on with a run."
        )
    keys = [item.split("=")[0].lstrip("+") for item in args.overrides]
    if "resume" in keys and command != "train":
        raise ConfigError(
            f"resume=FOLDER is for `tlmtl train`. `tlmtl {command}` takes the overrides of the run itself."
        )
    if "resume" in keys and args.multirun:
        raise ConfigError(
            "resume=FOLDER goes on with one run. Found -m: the same sweep command, without resume, goes on with a sweep."
        )
    if args.resolve and not args.cfg:
        raise ConfigError("--resolve goes with --cfg: `tlmtl train --cfg job --resolve`.")
    if args.multirun and (args.cfg or args.info):
        args.multirun, args.overrides = False, composition.first_job(args.overrides)
    if args.hydra_help:
        args.overrides = []
    chosen = [name for name in ("run", "multirun", "cfg", "info", "shell_completion") if getattr(args, name)]
    if len(chosen) > 1:
        raise ConfigError(f"These flags do not go together: {', '.join('--' + n.replace('_', '-') for n in chosen)}.")


def _run(cfg: Any) -> int:
    from tlmtl import api

    if cfg.sweep.dry_run:
        raise ConfigError("'sweep.dry_run' is for sweeps: add -m. `tlmtl train --cfg job` shows the config of one run.")
    if cfg.tune.trials is not None:
        raise ConfigError(f"tune.trials={cfg.tune.trials} makes a sweep of trials and runs: add -m.")
    result = api.run(cfg)

    from tlmtl.compare import table  # which imports pandas: what is wrong is told sooner without

    table.show(result.rows)
    print(f"Everything about this run is in {result.folder}")
    return 0


def show(words: list[str]) -> int:
    """`tlmtl list [GROUP]`."""
    folders = [packaged_folder(), *([folder] if (folder := user_folder()) else [])]
    known = {**GROUP_NAMES}
    for word in words:
        if word not in known:
            raise ConfigError(f"Unknown group '{word}'.{nearest(word, list(known))} Groups: {', '.join(known)}.")
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=False)
    for group in words or known:
        grid = Table(
            title=f"{group}: {known[group]}", title_justify="left", title_style="bold", box=None, show_header=False
        )
        grid.add_column(no_wrap=True, min_width=18)
        grid.add_column(overflow="fold")
        for preset in presets(group, folders):
            mine = "" if preset.path.is_relative_to(folders[0]) else "  (yours)"
            grid.add_row(f"  {preset.name}", escape(f"{preset.about}{mine}"))
        console.print(grid)
        console.print()
    return 0


def complete(words: list[str]) -> int:
    """The shell's question what could follow COMP_LINE. Commands are answered here, a run's overrides by Hydra."""
    line = os.environ.get("COMP_LINE", "")
    typed = line.split()
    if len(typed) < 2 or (len(typed) == 2 and not line.endswith(" ")):
        print("train check predict export compare report list cache --help --version")
        return 0
    if typed[1] == "list":
        print(" ".join(GROUP_NAMES))
    if typed[1] not in ("train", "check"):
        return 0
    os.environ["COMP_LINE"] = " ".join([typed[0], *typed[2:]]) + (" " if line.endswith(" ") else "")
    with contextlib.suppress(Exception), contextlib.redirect_stderr(open(os.devnull, "w")):  # noqa: PTH123
        return train(words)
    return 0


def show_log() -> None:
    """Print the program's log lines to standard error, as they are."""
    log = logging.getLogger("tlmtl")
    if not any(isinstance(handler, _Console) for handler in log.handlers):
        log.addHandler(_Console())
    log.setLevel(logging.INFO)
    log.propagate = False


class _Console(logging.Handler):
    """Writes to what standard error is at the time: a notebook, a test or a progress bar may have replaced it."""

    def emit(self, record: logging.LogRecord) -> None:
        if not getattr(record, "file_only", False):  # a run's error reaches the user as the command's own message
            print(record.getMessage(), file=sys.stderr)

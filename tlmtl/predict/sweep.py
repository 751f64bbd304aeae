"""Which run of a sweep to predict with, where the sweep itself was named."""

from pathlib import Path

from tlmtl.errors import ConfigError


def refuse(folder: Path) -> None:
    """Raises ConfigError for the folder of a sweep, naming its run that is best on validation (by the first task)."""
    if (folder / "run.json").exists() or not (folder / "results.csv").is_file():
        return
    from tlmtl.compare import load, metrics

    rows = load.read([folder])
    rows, _ = metrics.choose(rows[rows["status"] == "done"])
    rows = rows[rows["val"].notna() & rows["config_hash"].map(lambda name: (folder / name / "run.json").is_file())]
    if rows.empty:
        raise ConfigError(f"{folder} is a sweep, of which no run has finished; one run is wanted (RUN).")
    rows = rows[rows["task"] == rows["task"].iloc[0]]
    best = rows.loc[(rows["val"] * rows["metric"].map(metrics.sign)).idxmax()]
    raise ConfigError(
        f"{folder} is a sweep, and one run is wanted (RUN). Best on validation ({best['task']}: {best['metric']} "
        f"{best['val']:.4g}) is {folder / best['config_hash']}, of strategy={best['strategy']} seed={best['seed']:g}."
    )

"""What another test set could have given: the difference between two methods on resamples of the test examples.

Seeds say how much another training would change; all of them are measured on the same test examples, whose own chance they
cannot show. Both methods are measured on the same resample (a paired bootstrap), and the difference is averaged over seeds.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tlmtl.compare import keys, measures, predictions, stats
from tlmtl.compare.predictions import Said

AT_ONCE = 4_000_000  # weights that are numbers of four bytes at one time
AGREES = 1e-4  # relative: rows hold what was computed in 32 bits
LIMITS = ["boot_low", "boot_high"]

Pair = dict[Any, Any]  # a row of `pairs`
Figures = tuple[NDArray[Any], NDArray[Any]]  # names of the examples, and the metric in each resample


def intervals(pairs: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """`boot_low` and `boot_high` by `group`, for groups of `pairs` that have all their predictions; and notes.

    Arguments:
        pairs: one row for each pair of runs: group, dataset, task, kind, metric, and both runs' figure, config_hash and folder
            of the table (`figure` and `figure_base`, ...).
    """
    if keys.FOLDER not in pairs:
        return pd.DataFrame(columns=LIMITS), []
    known: dict[tuple[Any, ...], Figures | str] = {}
    weights: dict[int, NDArray[np.uint8]] = {}
    found: dict[Any, tuple[float, float]] = {}
    missing: dict[str, int] = {}
    examples: set[int] = set()
    by_group: dict[Any, list[Pair]] = {}
    for pair in pairs.to_dict(orient="records"):
        by_group.setdefault(pair["group"], []).append(pair)
    for group, part in by_group.items():
        differences: list[NDArray[Any]] = []
        for pair in part:
            row, base = (_figures(pair, end, known, weights) for end in ("", "_base"))
            if isinstance(row, str) or isinstance(base, str):
                why = row if isinstance(row, str) else str(base)
            elif not np.array_equal(row[0], base[0]):
                why = "the two runs stand on other test examples"
            else:
                differences.append(row[1] - base[1])
                continue
            missing[why] = missing.get(why, 0) + 1
            break
        else:
            found[group] = stats.bootstrap(np.mean(differences, axis=0))
            examples.add(len(row[0]))
    notes = []
    if found:
        sizes = f"{min(examples)} to {max(examples)}" if len(examples) > 1 else str(*examples)
        notes.append(
            f"test set: 95 % bootstrap interval of the same difference over {sizes} test examples ({stats.RESAMPLES:,} "
            "resamples): what another test set could give. Seeds say what another training could give."
        )
    for why, count in missing.items():
        notes.append(f"No interval over test examples for {count} row{'s' * (count > 1)}: {why}.")
    return pd.DataFrame.from_dict(found, orient="index", columns=LIMITS), notes


def _figures(
    pair: Pair, end: str, known: dict[tuple[Any, ...], Figures | str], weights: dict[int, NDArray[np.uint8]]
) -> Figures | str:
    """Of one run of a pair: its test examples and the metric in each resample of them, or why there is none."""
    split = predictions.split_of(pair["dataset"])
    folder = predictions.folder_of(str(pair[keys.FOLDER + end]), str(pair["config_hash" + end]))
    if folder is None:
        return "no predictions.parquet beside the results (only the table was kept, or the runs' folders are elsewhere)"
    key = (folder, pair["task"], split, pair["metric"])
    if key not in known:
        known[key] = _measured(folder, pair, split, float(pair["figure" + end]), weights)
    return known[key]


def _measured(
    folder: Path, pair: Pair, split: str, figure: float, weights: dict[int, NDArray[np.uint8]]
) -> Figures | str:
    metric = measures.find(str(pair.get("kind")), str(pair["metric"]))
    if metric is None:
        return f"{pair['metric']} can't be computed from stored predictions"
    said = predictions.read(folder, str(pair["task"]), split)
    if said is None:
        return f"the stored predictions hold no {split} examples of task {pair['task']}"
    order = np.argsort(said.ids, kind="stable")
    said = Said(said.ids[order], said.target[order], said.output[order])
    n = len(said.ids)
    again = float(metric(np.ones((1, n)), said)[0])
    if not abs(again - figure) <= AGREES * max(abs(figure), 1e-2):
        return f"the stored predictions give another {pair['metric']} than the results ({again:.6g}, not {figure:.6g})"
    if n not in weights:
        weights[n] = stats.resamples(n)
    parts = np.array_split(weights[n], max(1, weights[n].size // AT_ONCE))
    return said.ids, np.concatenate([metric(part.astype(np.float32), said) for part in parts])

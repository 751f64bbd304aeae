"""The bootstrap over test examples: from the predictions in runs' folders to two columns of the table."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet
from test_compare import row, write

from tlmtl.compare import load, stats, table

N, SEEDS, PROBE = 200, 3, [("strategy", "linear_probe")]


def predictions(folder: Path, right: np.ndarray) -> None:
    """A run's file: two classes, the examples of `right` (n,) answered rightly; validation beside it, all wrong."""
    target = np.arange(len(right)) % 2
    said = np.where(right, target, 1 - target)
    rows = [(split, f"e{i:03d}", t, s if split == "test" else 1 - t) for split in ("val", "test")
            for i, (t, s) in enumerate(zip(target, said, strict=True))]  # fmt: skip
    folder.mkdir(parents=True)
    parquet.write_table(pa.table({
        "split": [r[0] for r in rows], "id": [r[1] for r in rows], "task": ["digit"] * len(rows),
        "target": pa.array([float(r[2]) for r in rows]), "output": [[float(r[3] == 0), float(r[3] == 1)] for r in rows],
    }), folder / "predictions.parquet")  # fmt: skip


@pytest.fixture
def sweep(tmp_path) -> tuple[Path, dict]:
    """A sweep's table with its runs beside it, and which test examples each run had right."""
    generator = np.random.default_rng(0)
    rows, answers = [], {}
    for s, share in [("linear_probe", 0.7), ("finetune_all", 0.9)]:
        for seed in range(SEEDS):
            right = generator.random(N) < share
            one = row(s, seed, test=float(right.mean()), config_hash=f"{s[0]}{seed}")
            predictions(tmp_path / "sweep" / one["config_hash"], right)
            rows.append(one)
            answers[s, seed] = right
    return write(tmp_path / "sweep", rows), answers


def limits(path: Path, **more) -> tuple[list[float], list[str]]:
    summary = table.summarise(load.read([path]), baseline=PROBE, **more)
    return summary.groups.set_index("strategy").loc["finetune_all", ["boot_low", "boot_high"]].tolist(), summary.notes


def test_both_methods_stand_on_the_same_resamples_and_seeds_are_averaged(sweep):
    path, answers = sweep
    gains = np.mean(
        [answers["finetune_all", s].astype(float) - answers["linear_probe", s] for s in range(SEEDS)], axis=0
    )
    found, notes = limits(path)
    assert found == pytest.approx(list(stats.bootstrap(stats.resamples(N) @ gains / N)), abs=1e-6)
    assert any(
        "95 % bootstrap interval of the same difference over 200 test examples (2,000 resamples)" in n for n in notes
    )
    sd = gains.std() / N**0.5  # what theory says of a mean
    assert (found[1] - found[0]) / (2 * 1.96 * sd) == pytest.approx(1, abs=0.1)


def test_the_order_of_examples_does_not_matter(sweep):
    path, _ = sweep
    before, _ = limits(path)
    file = path / "f1" / "predictions.parquet"
    mixed = parquet.read_table(file).to_pandas().sample(frac=1, random_state=0)
    parquet.write_table(pa.Table.from_pandas(mixed, preserve_index=False), file)
    assert limits(path)[0] == pytest.approx(before)


def test_a_run_s_own_folder(sweep, tmp_path):
    """Runs that were no sweep: each folder has its table and its predictions."""
    path, _ = sweep
    rows = load.read([path]).drop(columns="@folder")
    for _, one in rows.iterrows():
        home = tmp_path / "runs" / one["run_id"]
        shutil.copytree(path / one["config_hash"], home)
        pd.DataFrame([one]).to_csv(home / "results.csv", index=False)
    assert limits(tmp_path / "runs")[0] == pytest.approx(limits(path)[0])


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (lambda path: shutil.rmtree(path / "f1"), "no predictions.parquet beside the results"),
        (lambda path: (path / "l2" / "predictions.parquet").write_bytes(b"PAR1"), "stored predictions hold no test examples"),
        (lambda path: shutil.copytree(path / "l0", path / "f0", dirs_exist_ok=True), "give another accuracy than the results"),
    ],
    ids=["gone", "cut", "another run's"],
)  # fmt: skip
def test_without_all_predictions_there_is_no_interval_and_it_is_said(sweep, harm, why):
    path, _ = sweep
    harm(path)
    found, notes = limits(path)
    assert np.isnan(found).all()
    assert any(note.startswith("No interval over test examples for 1 row: ") and why in note for note in notes)


def test_a_loss_is_not_computed_from_predictions(sweep):
    path, _ = sweep
    text = (path / "results.csv").read_text().replace("test/accuracy", "test/loss")
    (path / "results.csv").write_text(text)
    found, notes = limits(path, metric="loss")
    assert np.isnan(found).all() and any("loss can't be computed from stored predictions." in note for note in notes)

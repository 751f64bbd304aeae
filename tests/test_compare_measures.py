"""Metrics of `compare`'s bootstrap against those that runs measure, and what is read of a run's predictions."""

import numpy as np
import pytest
import torch

from tlmtl.compare import measures, predictions, stats
from tlmtl.compare.predictions import Said
from tlmtl.tasks import kinds, reconstruction
from tlmtl.tasks.classification import Classification
from tlmtl.tasks.multilabel import Multilabel
from tlmtl.tasks.reconstruction import Reconstruction
from tlmtl.tasks.regression import Regression

N = 60


def drawn(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Targets and outputs as they are stored, with ties and unknown labels among them."""
    generator = np.random.default_rng(3)
    if kind == "classification":
        target = generator.integers(0, 4, N)
        return target.astype(float), np.round(generator.normal(0, 1, (N, 5)) + 2 * np.eye(5)[target], 1)
    if kind == "regression":
        target = generator.normal(50, 3, N)
        return target, (target + generator.normal(0, 2, N))[:, None]
    if kind == "multilabel":
        known = generator.integers(0, 2, (N, 3)).astype(float)
        output = np.round(generator.normal(0, 1, (N, 3)) + known, 1)
        known[generator.random((N, 3)) < 0.1] = np.nan
        return known, output
    means = generator.normal(0, 1, N)
    return np.column_stack([means, means**2 + 1]), generator.random((N, 1))


def measured(kind: str, target: np.ndarray, output: np.ndarray) -> dict[str, float]:
    """By the program's own tasks, as a run does it."""
    names = reconstruction.METRICS if kind == "reconstruction" else kinds.KINDS[kind][0]
    task = {
        "classification": lambda: Classification("t", list("abcde"), names),
        "regression": lambda: Regression("t", 0.0, 1.0, names),
        "multilabel": lambda: Multilabel("t", list("abc"), names),
        "reconstruction": lambda: Reconstruction("t", names),
    }[kind]()
    truth = torch.as_tensor(target)
    return task.measure(torch.as_tensor(output), truth.long() if kind == "classification" else truth)


@pytest.mark.parametrize("kind", list(kinds.KINDS))
def test_metrics_are_those_of_a_run_also_of_resamples(kind):
    target, output = drawn(kind)
    ids = np.arange(N).astype(str)
    weights = stats.resamples(N, 4).astype(float)
    theirs = [measured(kind, target, output)]
    for row in weights:
        again = np.repeat(np.arange(N), row.astype(int))
        theirs.append(measured(kind, target[again], output[again]))
    weights = np.vstack([np.ones((1, N)), weights])
    assert set(theirs[0]) == set(measures.KINDS[kind])
    for name, expected in theirs[0].items():
        metric = measures.find(kind, name)
        found = metric(weights, Said(ids, target, output))
        assert found.tolist() == pytest.approx([one[name] for one in theirs], rel=1e-4), (kind, name)
        assert found[0] == pytest.approx(expected, rel=1e-4)


def test_unknown_metrics_are_not_guessed():
    assert measures.find("classification", "loss") is None and measures.find("segmentation", "accuracy") is None


def test_a_metric_that_a_resample_does_not_define_is_missing():
    said = Said(np.array(["a", "b"]), np.array([0.0, 1.0]), np.array([[1.0, 0], [0, 1]]))
    auroc = measures.find("classification", "auroc")
    assert np.isnan(auroc(np.array([[2.0, 0]]), said)).all() and auroc(np.ones((1, 2)), said)[0] == 1


def test_a_run_folder_is_read(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.table({
        "split": ["val", "test", "test", "test", "test:other"], "id": list("abcde"), "task": ["t", "t", "t", "u", "t"],
        "target": pa.array([0, 1, None, 2, 3], pa.float64()),
        "output": pa.array([[1, 0], [0, 1], [1, 1], [2, 2], [3, 3]], pa.list_(pa.float64())),
        "targets": pa.array([None, None, None, [1, None], None], pa.list_(pa.float32())),
    })  # fmt: skip
    run = tmp_path / "c0ffee"
    run.mkdir()
    parquet.write_table(table, run / "predictions.parquet")
    assert predictions.folder_of(tmp_path, "c0ffee") == run == predictions.folder_of(run, "other")
    assert predictions.folder_of(tmp_path, "gone") is None
    said = predictions.read(run, "t")
    assert (said.ids.tolist(), said.target.tolist(), said.output.tolist()) == (["b"], [1], [[0, 1]])
    several = predictions.read(run, "u")
    assert several.ids.tolist() == ["d"] and several.target[0, 0] == 1 and np.isnan(several.target[0, 1])
    assert predictions.read(run, "t", predictions.split_of("digits->other")).ids.tolist() == ["e"]
    assert predictions.read(run, "v") is None and predictions.split_of("digits") == "test"
    (run / "predictions.parquet").write_bytes(b"PAR1 cut")
    assert predictions.read(run, "t") is None

"""`tlmtl report` without a browser: kinds of tasks, tables without folders, wrong input, commands that make a row again."""

import csv
import json
import re
import shlex

import numpy as np
import pandas as pd
import pytest
from conftest import refused
from reports import bench

import tlmtl as package
from tlmtl import identity, results
from tlmtl.compare.predictions import Said
from tlmtl.report import again, mistakes, story
from tlmtl.report.curves import POINTS, thinned


def row(strategy="linear_probe", seed=0, test=0.9, val=0.8, **more) -> dict:
    """One row of a results.csv; rows that differ in `seed` alone are of one group."""
    name = f"{strategy}_{more.get('labels_per_class', '')}_{more.get('task', 'digit')}"
    made = {
        "run_id": f"run_{name}_{seed}", "config_hash": f"{name}_{seed}", "group_id": name, "status": "done",
        "dataset": "digits", "task": "digit", "kind": "classification", "model": "small_cnn", "source": "pretrain",
        "strategy": strategy, "tasks": "digit", "seed": seed, "val/accuracy": val, "test/accuracy": test,
        "train_seconds": 2.0 + seed,
    }  # fmt: skip
    return made | more


def table(path, rows):
    path.mkdir(parents=True, exist_ok=True)
    results.write_rows(path / "results.csv", rows)
    return str(path)


def plain(html: str) -> str:
    """The words of a page."""
    body = re.sub(r"<(script|style|svg).*?</\1>", " ", html, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", body).split())


def test_a_table_alone_makes_a_page_that_says_what_is_missing(main, tmp_path):
    rows = [row(seed=s, test=0.9 + s / 100) for s in range(3)] + [row("staged", s, 0.7, 0.6) for s in range(3)]
    said = main("report", table(tmp_path / "moved", rows), "--title", "Mine & <yours>")
    assert said.code == 0 and re.search(r"Written to report.html \(\d\d kB\)", said.err)
    html = (tmp_path / "report.html").read_text()
    words = plain(html)
    assert "<title>Mine &amp; &lt;yours&gt;</title>" in html
    assert words.count("The folders of the runs are not beside the table") == 2
    assert "no history.csv to read" in words and "no predictions.parquet to read" in words
    assert "2 set-ups (linear_probe and staged) on the data set digits" in words
    assert (
        "linear_probe is best by validation accuracy (0.8000 ± 0.0000); on test, by which nothing was chosen" in words
    )
    assert "It is 0.2100 better on test than the next by validation, staged" in words


def test_a_table_of_another_program(main, tmp_path):
    (tmp_path / "theirs.csv").write_text(
        "method;acc;run\nours <b>;0.9;0\nours <b>;0.92;1\ntheirs;0.8;0\ntheirs;0.85;1\n"
    )
    renamed = [word for pair in ("acc=test/accuracy", "run=seed", "method=strategy") for word in ("--rename", pair)]
    said = main("report", "theirs.csv", *renamed)
    assert said.code == 0, said.err
    words = plain((tmp_path / "report.html").read_text())
    assert "This page compares 2 set-ups (ours &lt;b&gt; and theirs). Each was trained 2 times" in words
    assert (
        "Nothing was measured on validation, so none is called the best" in words
        and "unnamed" not in words.split("Table")[1]
    )
    refused(main("report", "theirs.csv"), "seed", "--rename")


def test_one_run_has_no_interval_and_no_rival(main, tmp_path):
    assert main("report", table(tmp_path / "one", [row()])).code == 0
    words = plain((tmp_path / "report.html").read_text())
    assert "This page shows one set-up" in words and "1 run, all finished" in words
    assert "has a validation accuracy of 0.8000; on test, by which nothing was chosen, it reaches 0.9000." in words


def test_how_sure_is_said_in_words():
    def verdict(differences):
        from tlmtl.compare.table import summarise
        from tlmtl.report import view

        rows = [row(seed=s, test=0.8 + d, val=0.9) for s, d in enumerate(differences)]
        rows += [row("staged", s, 0.8, 0.6) for s in range(len(differences))]
        return story.verdicts(view.panels(summarise(pd.DataFrame(rows))))[0][1]

    assert "the lead is more than chance between trainings" in verdict([0.1, 0.11, 0.12])
    assert "3 seeds do not tell the two apart" in verdict([0.1, -0.1, 0.05])
    assert "so on test it is the other that leads" in verdict([-0.1, -0.11, -0.12])
    assert "It is 0.1000 better on test than the next by validation, staged; one seed says nothing" in verdict([0.1])
    assert "It is just as good on test as the next by validation" in verdict([0.1, -0.1])


def test_a_baseline_has_its_columns(main, tmp_path):
    rows = [row(seed=s, test=0.9 + s / 100) for s in range(6)] + [row("staged", s, 0.7) for s in range(6)]
    path = table(tmp_path / "x", rows)
    assert main("report", path, "--baseline", "strategy=staged").code == 0
    assert "+0.2250 ± 0.0196" in plain((tmp_path / "report.html").read_text())
    refused(main("report", path, "--baseline", "strategy"), "--baseline should be KEY=VALUE", "Found 'strategy'")
    refused(main("report", path, "--baseline", "strategy=nothing"), "--baseline", "linear_probe", "staged")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], ["nowhere", "found nothing"]),
        ([], ["expected a PATH"]),
        (["x", "--out", "missing/report.html"], ["--out should be a file in a folder that is there", "missing"]),
        (["x", "--out", "x"], ["--out should be a file", "Found x"]),
        (["x", "--figures", "x/results.csv"], ["--figures should be a folder"]),
        (["x", "--metric", "acuracy"], ["Unknown metric 'acuracy'", "accuracy"]),
        (["x", "--filter", "strategi == a"], ["Unknown key 'strategi'", "strategy"]),
        (["x", "--rename", "a"], ["--rename should be theirs=ours"]),
        (["x", "--figure", "y"], ["--figure"]),
    ],
)
def test_wrong_words(main, tmp_path, words, said):
    table(tmp_path / "x", [row()])
    found = main("report", *words)
    assert found.code == 2 and "Traceback" not in found.all
    assert all(word in found.err for word in said), found.err
    assert not (tmp_path / "report.html").exists()


def test_without_a_finished_run_there_is_no_page(main, tmp_path):
    (tmp_path / "report.html").write_text("old")
    path = table(tmp_path / "x", [row(test=None, val=None, status="failed", error="out of memory")])
    refused(main("report", path), "No finished run", "out of memory", code=1)
    assert (tmp_path / "report.html").read_text() == "old"


def test_many_groups_and_long_names_stay_readable(main, tmp_path):
    rows = [row(f"a_very_long_name_of_a_strategy_of_mine_{i}", s, 0.5 + i / 200, 0.5 + i / 200)
            for i in range(60) for s in range(2)]  # fmt: skip
    assert main("report", table(tmp_path / "x", rows)).code == 0
    html = (tmp_path / "report.html").read_text()
    assert "The 20 best by validation of 60 are drawn." in html and html.count("<tr") > 60 and len(html) < 400_000
    assert "60 set-ups on the data set digits" in html


def test_names_with_dollars_are_no_mathematics(main, tmp_path):
    rows = [row("cost$^2$", seed=1), row(r"\frac{$", seed=1, val=0.7), row("ok_$x", seed=2)]
    assert main("report", table(tmp_path / "x", rows)).code == 0
    assert "cost$^2$" in (tmp_path / "report.html").read_text()


def test_curves_are_thinned_to_their_ends():
    points = pd.DataFrame({"step": np.arange(1000), "mean": np.arange(1000)})
    kept = thinned(points)["step"].tolist()
    assert len(kept) == POINTS and kept[0] == 0 and kept[-1] == 999 and kept == sorted(kept)


def test_confusions_and_the_worst_of_a_classification():
    scores = np.array([[5.0, 0, 0], [0, 3, 0], [9, 0, 0], [0, 1, 0], [0, 0, 2]])
    said = Said(np.array(list("abcde")), np.array([0.0, 0, 1, 1, 2]), scores)
    counts = mistakes.confusion(said)
    assert counts.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    names = ["cat", "dog", "cow"]
    assert mistakes.confused(counts, names).rows == [["cat", "dog", "1", "50%"], ["dog", "cat", "1", "50%"]]
    worst = mistakes.worst(said, "classification", names)
    assert [(one.id, one.truth, one.said) for one in worst] == [("c", "dog", "cat (100%)"), ("b", "cat", "dog (91%)")]


def test_mistakes_of_labels_values_and_pictures():
    target = np.array([[1, 0, np.nan], [0, 0, 1], [0, 1, 0]])
    said = Said(np.array(list("abc")), target, np.array([[-4.0, 2, 9], [-1, -1, 1], [-1, 1, -1]]))
    listing = mistakes.per_label(said, ["fur", "tail", "wet"])
    assert listing.rows == [["fur", "1", "1", "0"], ["tail", "1", "0", "1"], ["wet", "1", "0", "0"]]
    worst = mistakes.worst(said, "multilabel", ["fur", "tail", "wet"])
    assert [(one.id, one.truth, one.said) for one in worst] == [("a", "fur", "tail, wet")]
    values = Said(np.array(["a", "b"]), np.array([3.0, 10.0]), np.array([[3.5], [4.0]]))
    assert [one.said for one in mistakes.worst(values, "regression", [])] == ["4.00", "3.50"]
    images = Said(np.array(["a", "b"]), np.zeros((2, 2)), np.array([[0.1], [0.7]]))
    assert mistakes.worst(images, "reconstruction", [])[0].said == "error 0.7 (root mean square)"


def test_a_hundred_classes_are_listed_instead_of_drawn():
    random = np.random.default_rng(0)
    truth = random.integers(0, 100, 2000)
    scores = random.normal(0, 1, (2000, 100))
    scores[np.arange(2000), truth] += 3
    counts = mistakes.confusion(Said(truth.astype(str), truth.astype(float), scores))
    listing = mistakes.confused(counts, [], 20)
    assert counts.shape == (100, 100) and len(listing.rows) == 20
    assert [int(line[2]) for line in listing.rows] == sorted((int(line[2]) for line in listing.rows), reverse=True)


COMPOSED = [
    [],
    ["strategy=finetune_all", "optimizer.lr=0.000123456789", "seed=3"],
    ["strategy=l2sp", "strategy.terms.l2_sp.beta=0.5", "dataset.labels_per_class=null"],
    ["strategy=finetune_all", "term=[supcon]", "dataset.augment=flip"],
    ["strategy=multitask", "dataset=two_digits", "model.pool=2", "weighting=famo", "sharing=mmoe"],
    ["strategy=separate", "dataset=two_digits", "model.pool=2"],
    ["strategy=separate", "dataset=two_digits", "sharing=hard"],
    ["dataset=two_digits", "tasks=[left,reconstruction]", "train.epochs=500st", "train.batch_size=16"],
    ["strategy=from_scratch", "optimizer=sgd", "schedule=cosine", "head.hidden=[64]"],
    ["dataset=joint", "dataset.parts=[digits,mnist5k]", "strategy=multitask", "+dataset.tasks.digits_digit.weight=2"],
    ["train.clip=1.5", "train.early_stopping=10%", "train.class_weights=balanced", "hardware.precision=bf16-mixed"],
]


@pytest.mark.parametrize("overrides", COMPOSED, ids=" ".join)
def test_the_command_of_a_row_makes_the_same_run(overrides):
    cfg = package.compose(overrides)
    made = {**identity.settings(cfg), "dataset": cfg.composed.choices["dataset"], "precision": cfg.hardware.precision}
    said = again.command(pd.DataFrame([made]).convert_dtypes(dtype_backend="numpy_nullable").astype(object))
    words = shlex.split(said)
    assert words[:2] == ["tlmtl", "train"], said
    assert identity.config_hash(package.compose(words[2:])) == identity.config_hash(cfg), said


def test_the_command_of_a_row_says_no_more_than_it_must():
    cfg = package.compose(["strategy=staged"])
    rows = pd.DataFrame([{**identity.settings(cfg), "dataset": "digits", "seed": seed} for seed in (2, 0, 1)])
    assert again.command(rows) == "tlmtl train -m strategy=staged seed=0,1,2"
    assert again.command(pd.DataFrame([{"dataset": "theirs", "seed": 1}])) == ""


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A real run of four tasks: two classifications, a regression, a reconstruction."""
    top = tmp_path_factory.mktemp("several")
    tasks = "tasks=[left,right,sum,reconstruction]"
    cfg = package.compose(["strategy=from_scratch", "dataset=two_digits", "model.pool=2", tasks, "train.epochs=2",
                           f"output.root={top}", "progress=false"])  # fmt: skip
    return package.run(cfg).folder


def test_a_real_run_of_several_tasks(main, several, tmp_path):
    said = main("report", str(several), "--figures", "pictures")
    assert said.code == 0, said.err
    html = (tmp_path / "report.html").read_text()
    words = plain(html)
    for heading in ("left from_scratch, seed 0", "sum from_scratch, seed 0", "reconstruction from_scratch, seed 0"):
        assert heading in words
    assert html.count('src="data:image/png;base64') == 4 * mistakes.WORST
    assert words.count("error 0.") >= mistakes.WORST or words.count("(root mean square)") == mistakes.WORST
    names = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert {"confusion_left.png", "confusion_right.svg", "predicted_sum.png", "worst_reconstruction.png",
            "learning_sum_metric.svg"} <= names  # fmt: skip


def test_images_that_are_gone_or_changed_are_told(main, several, tmp_path):
    import shutil

    shutil.copytree(several, tmp_path / "copy")
    config = tmp_path / "copy" / "config.yaml"
    config.write_text(config.read_text().replace("  overlap: 2", "  overlap: 3"))
    assert main("report", str(tmp_path / "copy")).code == 0
    words = plain((tmp_path / "report.html").read_text())
    assert "The images cannot be shown: the data set has changed since the run." in words
    assert "Worst-predicted examples" in words
    config.write_text(config.read_text().replace("tlmtl.data.two_digits.two_digits", "os.system"))
    assert main("report", str(tmp_path / "copy")).code == 0
    assert "The images cannot be shown: the data set cannot be read" in plain((tmp_path / "report.html").read_text())
    config.write_text("][")
    (tmp_path / "copy" / "history.csv").write_text("step,epoch\nx")
    (tmp_path / "copy" / "predictions.parquet").write_bytes(b"cut")
    assert main("report", str(tmp_path / "copy")).code == 0
    words = plain((tmp_path / "report.html").read_text())
    assert "no predictions.parquet to read" in words and "no history.csv to read" in words


def test_a_report_of_many_runs_is_quick_and_small(tmp_path):
    """The small version of `benchmarks/bench_report.py`: 100 runs."""
    _, worked, size = bench().measure(20, 5)
    assert worked < 15 and size < 0.6  # of a processor: others may be at work beside


def test_rows_of_other_folders_do_not_lend_their_files(main, several, tmp_path):
    """A table whose run_id is not that of the folder beside it: the folder holds another run by now."""
    rows = list(csv.DictReader((several / "results.csv").open(newline="")))
    (tmp_path / "x").mkdir()
    record = json.loads((several / "run.json").read_text())
    (tmp_path / "x" / "run.json").write_text(json.dumps({**record, "run_id": "another"}))
    (tmp_path / "x" / "predictions.parquet").write_bytes((several / "predictions.parquet").read_bytes())
    results.write_rows(tmp_path / "x" / "results.csv", rows)
    assert main("report", str(tmp_path / "x")).code == 0
    assert "no predictions.parquet to read" in plain((tmp_path / "report.html").read_text())


def test_help_is_light(main):
    said = main("report", "--help")
    assert said.code == 0 and "--figures DIR" in said.out and "tlmtl report outputs/sweeps/latest" in said.out

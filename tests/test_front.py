"""`tlmtl compare --front`: which weightings lie beyond the front of static sums."""

import io
import json
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from scipy import stats
from test_compare import row, write
from test_delta import METRIC

from tlmtl.compare import command, front, front_table, load, table, weights
from tlmtl.errors import ConfigError


def run(weighting="static", seed=0, given=None, sharing="hard", auxiliary=(), **more) -> list[dict]:
    """The rows of one run with the tasks named in `more`: `left=0.8` is a test figure. `given`: weights, as text."""
    figures = {task: more.pop(task) for task in METRIC if task in more}
    name = f"{weighting}{given or ''}{sharing}{more.get('baseline_id', '')}{'+'.join(figures)}"
    made = []
    for task, figure in figures.items():
        one = row(
            "multitask", seed, task=task, tasks="+".join(figures), sharing=sharing, weighting=weighting, baseline_id="b",
            data_hash="d", dataset="two_digits", primary=task not in auxiliary, tlmtl="1", device="cpu",
            run_id=f"{name}_{seed}", config_hash=f"{name}_{seed}", group_id=name,
            overrides="model.pool=2" + (f"; weighting.weights={given}" if given else ""),
        )  # fmt: skip
        del one["test/accuracy"], one["val/accuracy"]
        made.append(one | {f"{split}/{METRIC[task]}": figure for split in ("test", "val")} | more)
    return made


def found(*runs: list[dict]) -> front.Front:
    return front.find(table.summarise(pd.DataFrame([one for rows in runs for one in rows])))


def by_weighting(one: front.Front) -> pd.DataFrame:
    return one.points.set_index("weighting")


# the static points (1, 0), (0, 1) of two accuracies: what lies above the line between them is beyond
LINE = np.array([[1.0, 0.0], [0.0, 1.0]])


@pytest.mark.parametrize(
    ("point", "margin"),
    [
        ([0.5, 0.5], 0.0),
        ([0.6, 0.6], 0.1),
        ([0.3, 0.5], -0.1),
        ([1.0, 0.0], 0.0),
        ([1.0, 0.2], 0.1),
        ([0.0, 0.0], -0.5),
    ],
)
def test_the_margin_of_points_beside_a_line(point, margin):
    assert front.margin(np.array(point), LINE) == pytest.approx(margin, abs=1e-9)


def test_the_margin_is_relative_to_the_best_static_figure_of_each_task():
    scaled = LINE * [0.5, 20.0]
    assert front.margin(np.array([0.3, 12.0]), scaled) == pytest.approx(0.1)
    lower = np.array([[0.9, -4.0], [0.6, -2.0]])  # an error of 2 is the best: 1 unit is half of it
    assert front.margin(np.array([0.9, -3.0]), lower[:1]) == pytest.approx(0.25)
    assert front.margin(np.array([1.8, -3.0]), lower[:1]) == pytest.approx(1.0)
    assert front.margin(np.array([1.8, -2.0]), lower) == pytest.approx(1.0)  # what the first one lacks in both tasks
    assert np.isnan(front.margin(np.array([0.5, 0.5]), np.array([[0.0, 1.0]])))


def test_three_tasks():
    corners = np.eye(3)
    assert front.margin(np.array([0.4, 0.4, 0.4]), corners) == pytest.approx(0.4 - 1 / 3)
    assert front.margin(np.array([0.5, 0.5, 0.0]), corners) == pytest.approx(0.0, abs=1e-9)
    assert front.margin(np.array([0.3, 0.3, 0.3]), corners) == pytest.approx(0.3 - 1 / 3)


FIGURES = st.lists(st.floats(0.1, 1), min_size=2, max_size=2)


@settings(max_examples=50, deadline=None)
@given(static=st.lists(FIGURES, min_size=1, max_size=6), point=FIGURES, share=st.floats(0, 1))
def test_laws_of_the_margin(static, point, share):
    points = np.array(static)
    mixture = share * points[0] + (1 - share) * points[-1]
    assert front.margin(mixture, points) <= 1e-7  # no mixture lies beyond
    one = front.margin(np.array(point), points)
    worst = np.min((np.array(point) - points.max(axis=0)) / points.max(axis=0))
    best = max(np.max((np.array(point) - each) / points.max(axis=0)) for each in points)
    assert worst - 1e-7 <= one <= best + 1e-7
    more = front.margin(np.array(point), np.vstack([points, points.max(axis=0)]))
    assert more <= one + 1e-7  # another static point can only raise the front
    assert front.margin(np.array(point), points[::-1]) == pytest.approx(one, abs=1e-7)


def test_which_static_points_are_on_the_front():
    figures = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.4, 0.5], [0.4, 0.4], [0.5, 0.5]])
    assert front.on_front(figures).tolist() == [True, True, True, False, False, True]


def statics(seed=0, **more) -> list[list[dict]]:
    return [
        run("static", seed, "[0.9, 0.1]", left=0.8, sum=4.0, **more),
        run("static", seed, "[0.1, 0.9]", left=0.4, sum=2.0, **more),
        run("sum", seed, left=0.4, sum=4.0, **more),
    ]


def test_beyond_not_beyond_and_unclear_by_the_interval_over_seeds():
    # static points of left .8 and .4, sum 4 and 2. With a share a of the first, a mixture has left .4 + .4 a, sum 2 + 2 a.
    # It is ahead by (.4 + .4 a - left) / .8 and (sum - 2 - 2 a) / 2; the smaller one is largest where they are equal.
    def margin(left, mae):
        a = min(max(((mae - 2) / 2 - (0.4 - left) / 0.8) / 1.5, 0), 1)
        return -100 * min((0.4 + 0.4 * a - left) / 0.8, (mae - 2 - 2 * a) / 2)

    points = {
        "beyond": [(0.8, 2.0), (0.8, 2.1), (0.82, 2.0)],
        "not beyond": [(0.4, 3.9), (0.42, 4.0), (0.41, 3.8)],
        "unclear": [(0.6, 2.8), (0.6, 3.2), (0.62, 3.0)],
    }
    runs = [one for seed in range(3) for one in statics(seed)]
    for name, drawn in points.items():
        runs += [run(name.replace(" ", "_"), seed, left=left, sum=mae) for seed, (left, mae) in enumerate(drawn)]
    one = found(*runs)
    for name, drawn in points.items():
        point = by_weighting(one).loc[name.replace(" ", "_")]
        expected = [margin(*pair) for pair in drawn]
        assert point["verdict"] == name and point["margin_n"] == 3
        assert point["margin"] == pytest.approx(np.mean(expected))
        assert point["margin_half"] == pytest.approx(stats.t.ppf(0.975, 2) * stats.sem(expected))
    assert "Of 3 learned weightings: 1 beyond, 1 not beyond, 1 unclear. Kurin et al. 2022 and Xin et al. 2022" in str(
        one.notes
    )
    assert one.points["static"].tolist() == [True] * 3 + [False] * 3
    assert one.points["verdict"].tolist()[:3] == ["front", "dominated", "front"]
    assert one.points["weights"].tolist()[:3] == ["0.1, 0.9", "1, 1", "0.9, 0.1"]


def test_one_seed_is_unclear():
    one = found(*statics(), run("famo", left=0.9, sum=1.0))
    assert by_weighting(one).loc["famo", ["verdict", "margin_n"]].tolist() == ["unclear", 1]
    assert "A margin from one seed has no interval: unclear. Run more seeds." in one.notes


def test_a_point_is_measured_against_static_runs_of_its_seed_alone():
    low = [one for seed in range(2) for one in statics(seed)]
    high = statics(2)
    for rows in high:
        for each in rows:
            each.update({k: v * 2 for k, v in each.items() if k == "test/accuracy"})
    runs = [run("famo", seed, left=0.8, sum=2.0) for seed in range(3)]
    points = by_weighting(found(*low, *high, *runs))
    alone = [by_weighting(found(*part, made)).loc["famo", "margin"] for part, made in
             ((low[:3], runs[0]), (low[3:], runs[1]), (high, runs[2]))]  # fmt: skip
    assert alone[2] < alone[0] == alone[1]
    assert points.loc["famo", "margin"] == pytest.approx(np.mean(alone))
    lacking = found(*low, *runs)
    assert by_weighting(lacking).loc["famo", ["n", "margin_n"]].tolist() == [3, 2]
    assert "1 run without a margin: no static run of the same seed and data." in lacking.notes


@pytest.mark.parametrize("other", [{"baseline_id": "c"}, {"sharing": "mmoe"}, {"data_hash": "e"}])
def test_runs_of_another_set_up_have_a_front_of_their_own(other):
    one = found(*statics(), run("famo", left=0.9, sum=1.0, **other))
    assert one.points["family"].nunique() == 2
    assert by_weighting(one).loc["famo", "verdict"] == "no margin"


def test_further_test_sets_have_fronts_of_their_own():
    def also(rows):
        return [*rows, *({**one, "dataset": "two_digits->b", "data_hash": "e", "test/mae": 1.0} for one in rows)]

    one = found(*map(also, statics()), also(run("famo", left=0.9, sum=1.0)))
    learned = one.points[~one.points["static"]]
    assert learned["dataset"].tolist() == ["two_digits", "two_digits->b"] and len(one.points) == 8
    assert learned["margin"].tolist() == pytest.approx([100 * 7 / 12, 12.5]) and front_table.settings(one) == [
        "dataset"
    ]


def test_auxiliary_tasks_and_separate_models_do_not_count():
    one = found(
        *statics(right=0.1, auxiliary=["right"]),
        run("famo", left=0.4, right=0.99, sum=4.0, auxiliary=["right"]),
        run("sum", left=0.99, sum=0.1, sharing="none"),
    )
    assert list(one.tasks) == ["left", "sum"] and len(one.points) == 4
    assert by_weighting(one).loc["famo", "margin"] < 0


def test_a_run_that_lacks_a_figure_is_left_out():
    one = found(*statics(), run("famo", left=0.9, sum=1.0), run("famo", 1, left=0.9, sum=float("nan")))
    assert by_weighting(one).loc["famo", "n"] == 1
    assert "1 of 5 runs lack a task's figure and were left out." in one.notes


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (run("sum", left=0.8), "found none. Make some: tlmtl train -m"),
        (run("sum", left=0.8, sum=1.0, sharing="none"), "found none. Make some: tlmtl train -m"),
        (run("famo", left=0.8, sum=1.0), "found weighting=famo. Make some: tlmtl train -m"),
    ],
)
def test_what_cannot_have_a_front(rows, message):
    with pytest.raises(ConfigError, match=message):
        found(rows)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [1, 1]),
        ({"weighting.weights": "[0.25, 0.75]"}, [0.25, 0.75]),
        ({"weighting.weights": "[0.25,0.75]"}, [0.25, 0.75]),
        ({"weighting.weights.left": 0.5, "weighting.weights.sum": 2.0}, [0.5, 2]),
        ({"dataset.tasks.sum.weight": 3.0, "dataset.tasks.left.weight": None}, [1, 3]),
        ({"weighting.weights": "[1]"}, [1, 1]),
        ({"weighting.weights": "[1, x]"}, [1, 1]),
    ],
)
def test_weights_wherever_they_are_stated(settings, expected):
    assert weights.given(pd.Series({"tasks": "left+sum", **settings})) == expected


@pytest.fixture
def sweep(tmp_path):
    runs = [one for seed in range(3) for one in statics(seed)]
    for name, left in (("uncertainty", 0.8), ("imtl_l", 0.45)):
        runs += [run(name, seed, left=left + seed / 100, sum=2.5) for seed in range(3)]
    return write(tmp_path / "sweep", [row for rows in runs for row in rows])


def test_the_table_in_all_formats(sweep, tmp_path, capsys):
    assert command.main([str(sweep), "--front"]) == 0
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert lines[0].startswith("dataset two_digits · ") and lines[0].endswith("model.pool 2")
    assert lines[2].split() == [
        "weighting",
        "weights",
        "n",
        "left",
        "accuracy",
        "sum",
        "mae",
        "±",
        "95",
        "%",
        "t",
        "verdict",
    ]
    assert lines[4].split() == ["static", "0.1,", "0.9", "3", "0.4000", "±", "0.0000", "2.000", "±", "0.000", "front"]
    assert lines[8].split()[0] == "uncertainty" and lines[8].endswith("  beyond") and "Kurin et al. 2022" in said
    command.main([str(sweep), "--front", "--format", "json"])
    records = json.loads(capsys.readouterr().out)
    assert [one["verdict"] for one in records] == ["front", "dominated", "front", "beyond", "not beyond"]
    assert records[3]["left_mean"] == pytest.approx(0.81) and records[0]["margin_mean"] is None
    command.main([str(sweep), "--front", "--format", "csv"])
    read = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert read["margin_mean"].dropna().tolist() == [one["margin_mean"] for one in records[3:]]
    command.main([str(sweep), "--front", "--out", str(tmp_path / "front.md")])
    text = (tmp_path / "front.md").read_text()
    assert "| static | 0.1, 0.9 | 3 | 0.4000 ± 0.0000 | 2.000 ± 0.000 |  | front |" in text
    command.main([str(sweep), "--front", "--format", "latex"])
    assert r"uncertainty &  & 3 & 0.8100 $\pm$ 0.0100" in capsys.readouterr().out


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_table_in_terminals(sweep, width):
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    front_table.draw(front.find(table.summarise(load.read([sweep]))), console)
    lines = console.file.getvalue().splitlines()
    assert max(map(cell_len, lines)) <= width
    for needed in ("margin %", "dominated", "0.8100 ± 0.0100", "2.500 ± 0.000"):
        assert needed in "\n".join(lines)


def test_the_figure(sweep, tmp_path, capsys):
    for suffix, start in [(".png", b"\x89PNG\r\n"), (".svg", b"<?xml"), (".pdf", b"%PDF")]:
        command.main([str(sweep), "--front", "--plot", str(tmp_path / f"front{suffix}")])
        assert f"Figure written to {tmp_path / f'front{suffix}'}" in capsys.readouterr().out
        assert (tmp_path / f"front{suffix}").read_bytes().startswith(start)
    text = (tmp_path / "front.svg").read_text()
    for label in ("static sums", "uncertainty", "left: test accuracy", "sum: test mae (lower is better)", "0.9, 0.1"):
        assert f">{label}" in text


def test_three_tasks_have_three_panels(tmp_path):
    runs = [
        run("static", seed, w, left=0.5, right=0.5 + seed / 9, sum=2.0)
        for seed in (0, 1)
        for w in ("[1, 1, 2]", "[2, 1, 1]")
    ]
    runs += [run("famo", seed, left=0.6, right=0.6 + seed / 9, sum=1.0) for seed in (0, 1)]
    path = write(tmp_path, [row for rows in runs for row in rows])
    command.main([str(path), "--front", "--plot", str(tmp_path / "front.svg")])
    text = (tmp_path / "front.svg").read_text()
    assert text.count(">left: test accuracy") == 2 and text.count(">sum: test mae") == 2
    assert text.count(">right: test accuracy") == 2


def test_flags_of_the_other_table_are_refused(sweep, capsys):
    with pytest.raises(SystemExit):
        command.main([str(sweep), "--front", "--top", "3", "--over", "lr"])
    assert "found --over, --top" in capsys.readouterr().err


def test_a_thousand_runs_in_ten_seconds():
    runs = [one for seed in range(100) for one in statics(seed)]
    runs += [run(f"w{k}", seed, left=0.5, sum=3.0) for seed in range(100) for k in range(7)]
    start = time.perf_counter()
    assert found(*runs).points["margin_n"].sum() == 700
    assert time.perf_counter() - start < 10

"""`--baseline` and `--fail-if`: which rows are compared with which, what is said of it, and when a script has to stop."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats
from test_compare import failed, row, write

from tlmtl.compare import command, load, stats, table
from tlmtl.errors import ConfigError

PROBE = [("strategy", "linear_probe")]


def sweep(shift: float = 0.02, seeds: int = 3, **more) -> list[dict]:
    """linear_probe and finetune_all of the same seeds; the second is better by about `shift`."""
    noise = np.random.default_rng(0).normal(0, 0.004, (2, seeds))
    return [
        row(s, seed, 0.9 + noise[at, seed] + at * shift, **more)
        for at, s in enumerate(["linear_probe", "finetune_all"]) for seed in range(seeds)
    ]  # fmt: skip


def compared(rows: list[dict], baseline=PROBE, **more) -> tuple[pd.DataFrame, str]:
    summary = table.summarise(pd.DataFrame(rows), baseline=baseline, **more)
    return summary.groups.set_index("strategy"), "\n".join(summary.notes)


def run(capsys, *argv) -> tuple[int, str, str]:
    code = command.main([str(word) for word in argv])
    return code, *capsys.readouterr()


def test_differences_are_of_the_same_seed():
    rows = sweep(seeds=6)
    groups, notes = compared(rows)
    one, base = ([r["test/accuracy"] for r in rows if r["strategy"] == s] for s in ("finetune_all", "linear_probe"))
    theirs = scipy_stats.ttest_rel(one, base)
    limits = theirs.confidence_interval()
    found = groups.loc["finetune_all"]
    assert found["difference"] == pytest.approx(np.mean(one) - np.mean(base)) and found["pairs"] == 6
    assert found["difference_half"] == pytest.approx((limits.high - limits.low) / 2)
    assert found[["p", "p_least", "p_holm"]].tolist() == [0.03125, 0.03125, 0.03125]
    assert (
        groups.loc["linear_probe", ["difference", "pairs"]].isna().all() and groups.loc["linear_probe", "is_baseline"]
    )
    assert "difference: row - baseline (strategy=linear_probe) of the same seed, mean over 6 seeds" in notes
    assert "can fall below" not in notes


def test_three_seeds_say_how_little_their_p_can_say(tmp_path, capsys):
    code, out, _ = run(capsys, write(tmp_path, sweep()), "--baseline", "strategy=linear_probe")
    assert code == 0 and " ↑  .25 (.25)   .25  " in out
    assert next(line for line in out.splitlines() if line.startswith("linear_probe")).split()[8] == "baseline"
    assert "With 3 seeds no p can fall below .25: a large p says nothing here, the interval is what to read." in out
    assert "From 6 seeds on, p Holm can reach .05." in out


def test_lower_is_better_for_errors():
    rows = [one | {"test/accuracy": "", "val/accuracy": "", "test/mae": one["test/accuracy"]} for one in sweep()]
    text = table.plain.render(table.summarise(pd.DataFrame(rows), baseline=PROBE))
    assert "+0.0" in text and "↓" in text.split("difference:")[0]


def test_one_seed_has_no_interval_and_it_says_why():
    groups, notes = compared(sweep(seeds=1))
    found = groups.loc["finetune_all"]
    assert found["pairs"] == 1 and found["difference"] > 0 and found[["difference_half", "p", "p_holm"]].isna().all()
    assert "A difference of one seed has no interval and no p: nothing says how far seeds differ." in notes


def test_only_shared_seeds_are_pairs():
    rows = [
        one
        for one in sweep(seeds=5)
        if (one["strategy"], one["seed"]) not in {("linear_probe", 4), ("finetune_all", 0)}
    ]
    groups, notes = compared(rows)
    assert groups.loc["finetune_all", "pairs"] == 3
    assert "1 of 1 differences rest on fewer seeds than n" in notes
    none = [one | {"seed": one["seed"] + 9 * (one["strategy"] == "finetune_all")} for one in sweep()]
    groups, notes = compared(none)
    assert groups["difference"].isna().all()
    assert "No seed of finetune_all is the baseline's too: no difference there." in notes


def test_other_data_are_no_pairs():
    rows = [one | {"data_hash": "a" if one["strategy"] == "linear_probe" else "b"} for one in sweep()]
    groups, notes = compared(rows)
    assert groups["difference"].isna().all()
    assert "finetune_all and the baseline were measured on other data or splits (data_hash)" in notes


def test_a_row_is_compared_where_the_baseline_agrees_in_what_varies():
    """Of two label counts each with its own; the learning rate, which follows from the strategy, need not agree."""
    rows = [
        one | {"lr": 0.1 if one["strategy"] == "linear_probe" else 0.001}
        for n, shift in ((5, 0.02), (50, 0.03)) for one in sweep(shift, labels_per_class=n)
    ]  # fmt: skip
    summary = table.summarise(pd.DataFrame(rows), baseline=PROBE)
    found = summary.groups[summary.groups["strategy"] == "finetune_all"].set_index("labels_per_class")["difference"]
    assert found[50] - found[5] == pytest.approx(0.01)
    extra = [
        *rows,
        *[one | {"labels_per_class": 7, "group_id": "x"} for one in sweep() if one["strategy"] != "linear_probe"],
    ]
    notes = table.summarise(pd.DataFrame(extra), baseline=PROBE).notes
    assert "No baseline agrees with finetune_all · 7 (labels_per_class): no difference there." in notes


def test_several_baselines_are_said_and_not_guessed():
    rows = [*sweep(), *[one | {"group_id": "twin", "config_hash": f"t{one['seed']}", "run_id": f"t{one['seed']}"}
            for one in sweep() if one["strategy"] == "linear_probe"]]  # fmt: skip
    summary = table.summarise(pd.DataFrame(rows), baseline=PROBE)
    assert summary.groups["difference"].isna().all()
    assert any(note.startswith("Several baselines agree with finetune_all") for note in summary.notes)
    rates = [*sweep(), *sweep(lr=0.5)]
    groups = table.summarise(pd.DataFrame(rates), baseline=[*PROBE, ("lr", "0.5")]).groups
    assert groups["pairs"].notna().sum() == 3 and groups["is_baseline"].sum() == 1


def test_the_family_is_all_that_is_compared():
    rows = [*sweep(seeds=6), *[one | {"strategy": "staged", "group_id": "st", "config_hash": f"st{one['seed']}",
            "run_id": f"st{one['seed']}"} for one in sweep(0.0, seeds=6) if one["strategy"] == "finetune_all"]]  # fmt: skip
    groups, notes = compared(rows)
    both = groups.loc[["finetune_all", "staged"]]
    assert both["p_holm"].tolist() == pytest.approx(stats.holm(both["p"]).tolist())
    assert "p Holm: for all 2 comparisons of the table together." in notes
    assert "With 6 seeds no p Holm can reach .05; from 7 seeds on it can." in notes


def test_over_chooses_before_rows_are_compared():
    rows = [one | {"val/accuracy": 0.8 + lr} for lr in (0.1, 0.01) for one in sweep(0.02 + lr, lr=lr)]
    groups, _ = compared(rows, over=["lr"])
    assert groups["lr"].tolist() == [0.1, 0.1] and groups.loc["finetune_all", "difference"] == pytest.approx(
        0.12, abs=0.02
    )


def test_folds_are_pairs_too():
    rows = [
        one | {"overrides": f"dataset.fold={k}/2", "data_hash": str(k)} | {x: f"{k}{one[x]}" for x in ("config_hash", "run_id")}
        for k in (1, 2) for one in sweep()
    ]  # fmt: skip
    groups, _ = compared(rows, repeats=["dataset.fold"])
    assert groups.loc["finetune_all", "pairs"] == 6


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (
            "strategy=probe",
            "No row of the table has --baseline strategy=probe. Found in strategy: finetune_all, linear_probe.",
        ),
        ("seed=0", "--baseline takes a setting, such as strategy=linear_probe; seed is not one."),
        ("stratgy=x", "Unknown key 'stratgy' in --baseline. Did you mean 'strategy'?"),
    ],
)
def test_wrong_baselines(tmp_path, flag, message):
    with pytest.raises(ConfigError) as caught:
        command.main([str(write(tmp_path, sweep())), "--baseline", flag])
    assert str(caught.value).startswith(message) and caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("condition", "code", "said"),
    [
        ("test < 0.5", 0, ""),
        ("test < 0.91", 1, "--fail-if 'test < 0.91' holds for 1 of 2 rows: linear_probe (test 0.9"),
        ("difference > 0.01", 1, "holds for 1 of 2 rows: finetune_all (difference 0.0"),
        ("p_holm < 0.05", 0, ""),
        ("boot_low < 0", 1, "no row has a figure in boot_low, so nothing could be checked."),
    ],
)
def test_scripts_stop_where_a_condition_holds(tmp_path, capsys, condition, code, said):
    path = write(tmp_path, sweep())
    found, out, err = run(
        capsys, path, "--baseline", "strategy=linear_probe", "--fail-if", condition, "--format", "csv"
    )
    assert found == code and said in err and out.startswith("dataset,task")
    assert ("--fail-if" in err) == bool(code)


def test_conditions_that_cannot_be_read(tmp_path, capsys):
    path = str(write(tmp_path, sweep()))
    for wrong, message in [
        ("test <", "--fail-if: test holds numbers; expected one after <, found ''"),
        ("tests < 1", "Unknown key 'tests' in --fail-if. Did you mean 'test'?"),
        ("p_holm < .05", "--fail-if 'p_holm < .05' needs a baseline"),
        ("test", "Expected --fail-if to be KEY OP VALUE"),
    ]:
        with pytest.raises(ConfigError, match="--fail-if") as caught:
            command.main([path, "--fail-if", wrong])
        assert message in str(caught.value)
    assert capsys.readouterr().out == ""


def test_the_mark_is_by_validation_and_time():
    rows = [
        row(s, val=val, test=1 - val, train_seconds=seconds, group_id=s)
        for s, val, seconds in [("a", 0.9, 9.0), ("b", 0.8, 1.0), ("c", 0.8, 2.0), ("d", 0.85, 3.0)]
    ]
    summary = table.summarise(pd.DataFrame(rows))
    assert summary.groups["pareto"].tolist() == [True, True, False, True]
    assert summary.notes == ["◆ pareto: no other row is as good by the figure on validation and as fast to train."]
    assert "◆" in table.plain.render(summary) and not table.summarise(pd.DataFrame(rows[:2])).groups["pareto"].any()


def test_repeats_that_were_not_made_alike_are_named():
    rows = [one | {"git_sha": f"c{one['seed'] % 2}", "torch": "2.14.1"} for one in sweep()]
    rows[4]["torch"] = "2.13.0"
    lost = failed(strategy="linear_probe", seed=7, error="boom")
    notes = table.summarise(pd.DataFrame([*rows[:5], lost])).notes
    assert "Mixed git_sha (c0, c1) among the repeats of finetune_all, linear_probe: another state of the code." in notes
    assert "Mixed torch (2.13.0, 2.14.1) among the repeats of finetune_all: another version of torch." in notes
    assert "Unequal n: finetune_all (n = 2, without seed 2), where others have up to 3." in notes
    assert "Failed: 1 of linear_probe." in notes


def test_a_file_that_was_kept_alone_has_no_bootstrap_and_says_so(tmp_path):
    rows = load.read([write(tmp_path, sweep())])
    summary = table.summarise(rows, baseline=PROBE)
    assert summary.groups[["boot_low", "boot_high"]].isna().all(axis=None)
    assert any("No interval over test examples for 1 row: no predictions.parquet" in note for note in summary.notes)

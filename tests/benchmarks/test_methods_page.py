"""The page of the method comparison is what its result files say."""

from __future__ import annotations

import copy
import json
import math
import sys

import pytest
from shared_data import ROOT

sys.path.append(str(ROOT / "benchmarks" / "methods"))

import claims
import page

SETTING = {
    "depth": 20,
    "scope": "all",
    "epochs": 2,
    "images": 256,
    "images_per_epoch": 256,
    "batch_size": 128,
    "learning_rate": 0.02,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 1e-4,
    "calibration": 64,
    "optimizer": "SGD",
    "schedule": "cosine",
    "augmentation": "flip",
    "data": {"training": "train"},
}
COMMAND = """\
```
python benchmarks/methods/run.py --data-dir DIR --weights DIR \\
    --depth 20 --scope all --epochs 2 --images 256 --batch-size 128 \\
    --learning-rate 0.02 --momentum 0.9 --weight-decay 0.0001 --calibration 64 \\
    --target 0.5 0.75 --seeds 0 3
```"""
BASELINE = {"test[:5000]": 91.0, "test[5000:]": 92.0, "test": 91.5}


def result(arm, final, seed=0, target=0.5, **changes):
    made = {
        "arm": arm,
        "title": arm.upper(),
        "order": len(arm),
        "target": {"macs": target},
        "seed": seed,
        "setting": SETTING,
        "baseline": BASELINE,
        "removals": [{"before_epoch": 1, "accuracy": 40.0}],
        "epochs": [{"epoch": n, "accuracy": final - 2 + n} for n in (1, 2)],
        "final": {k: final for k in BASELINE},
        "macs": {"removed": target},
        "params": {"removed": target},
        "masked_to_compact": {"relative_difference": 1e-6, "other_labels": 0},
        "versions": {"keras": "3.0"},
    }
    return {**copy.deepcopy(made), **changes}


def written(folder, results, name="resnet20"):
    (folder / name).mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(results):
        path = folder / name / f"{number}.json"
        path.write_text(json.dumps(one))
    out = folder / "docs" / "page.md"
    page.write_page(folder, out)
    return out.read_text()


def rows(text, start):
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith(f"| {start}")
    ]


# -- tables ----------------------------------------------------------------


def test_mean_deviation_and_number_of_seeds(tmp_path):
    text = written(
        tmp_path, [result("soft", 80.0), result("soft", 83.0, seed=1)]
    )
    [row] = rows(text, "SOFT")
    # statistics: mean 81.5, deviation sqrt(4.5)
    assert row == [
        "SOFT",
        "2",
        "50.0 %",
        "50.0 %",
        "40.00 ± 0.00",
        "81.50 ± 2.12",
        "81.50 ± 2.12",
        "-10.00",
    ]


def test_the_budget_stands_above_the_tables(tmp_path):
    text = written(tmp_path, [result("soft", 80.0, seed=3)])
    head = text[: text.index("### ")]
    for part in (
        "2 epochs of 256 training images",
        "batches of 128",
        "learning rate 0.02",
        "Seeds: 3.",
        "92.00 on `test[5000:]`",
    ):
        assert part in head


def test_the_command_of_a_series_has_its_setting(tmp_path):
    text = written(
        tmp_path,
        [result("soft", 80.0, seed=3), result("soft", 70.0, target=0.75)],
    )
    assert f"\n{COMMAND}\n" in text


def test_each_target_has_a_table_with_the_unpruned_in_it(tmp_path):
    text = written(
        tmp_path,
        [
            result("soft", 80.0),
            result("soft", 70.0, target=0.75),
            result("none", 91.0, target=0.0, removals=[], order=9),
        ],
    )
    assert "### 50 % of the MACs" in text and "### 75 % of the MACs" in text
    assert "### 0 %" not in text
    assert len(rows(text, "NONE")) == 2
    # in the order of arms.py, and nothing "right after" where nothing goes
    assert text.index("| SOFT") < text.index("| NONE")
    assert rows(text, "NONE")[0][4] == ""


def test_runs_that_miss_their_target_are_named(tmp_path):
    short = result("soft", 80.0, macs={"removed": 0.42})
    text = written(tmp_path, [short, result("hard", 80.0)])
    assert (
        "Short of their target: SOFT (seed 0): 42.0% instead of 50.0%." in text
    )


def test_settings_do_not_mix(tmp_path):
    other = result("soft", 80.0, setting={**SETTING, "epochs": 9})
    with pytest.raises(ValueError, match="another setting"):
        written(tmp_path, [result("soft", 80.0), other])


def test_no_results_no_page(tmp_path):
    with pytest.raises(ValueError, match="no results"):
        page.write_page(tmp_path, tmp_path / "page.md")
    assert not (tmp_path / "page.md").exists()


def test_the_same_results_give_the_same_files(tmp_path):
    results = [result("soft", 80.0), result("hard", 81.0)]
    text = written(tmp_path, results)
    [plot] = (tmp_path / "docs").glob("*.svg")
    assert f"]({plot.name})" in text
    drawn = plot.read_bytes()
    assert drawn.startswith(b"<?xml") and b"SOFT" in drawn
    assert written(tmp_path, results) == text
    assert plot.read_bytes() == drawn
    assert {p.suffix for p in (tmp_path / "docs").iterdir()} == {".md", ".svg"}


# -- claims ----------------------------------------------------------------


def runs(*results):
    return {(r["arm"], r["target"]["macs"], r["seed"]): r for r in results}


def series(arm, finals, **changes):
    return [result(arm, f, seed=n, **changes) for n, f in enumerate(finals)]


BETTER = claims.Claim("better", "somebody", "new", "old")


@pytest.mark.parametrize(
    ("new", "old", "verdict"),
    [
        ((81.0, 82.0, 83.0), (80.0, 81.1, 82.0), claims.CONFIRMED),
        ((79.0, 80.0, 81.0), (80.0, 81.1, 82.0), claims.REFUTED),
        ((81.0, 82.0, 83.0), (80.0, 82.5, 82.0), claims.UNDECIDED),
        ((85.0, 85.0), (80.0, 80.0), claims.UNDECIDED),
    ],
)
def test_the_rule(new, old, verdict):
    [finding] = claims.judge(
        BETTER, runs(*series("new", new), *series("old", old))
    )
    assert finding.verdict == verdict
    assert finding.seeds == len(new)


def test_seeds_are_compared_with_themselves():
    # far apart from seed to seed, but each time one point above
    [finding] = claims.judge(
        BETTER,
        runs(*series("new", (61.0, 71.0, 81.2)), *series("old", (60, 70, 80))),
    )
    assert finding.verdict == claims.CONFIRMED
    assert finding.mean == pytest.approx(3.2 / 3)


def test_seeds_without_a_partner_do_not_count():
    results = [*series("new", (81.0, 82.0, 83.0)), *series("old", (80.0,))]
    [finding] = claims.judge(BETTER, runs(*results))
    assert finding.seeds == 1 and math.isinf(finding.high)


def test_interval_is_students():
    # mean 2, standard error 1 / sqrt(3), t of 2 degrees of freedom 4.3027
    mean, low, high = claims.interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert high - mean == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert mean - low == pytest.approx(high - mean)


def test_claims_about_the_pretrained_network_have_allowance_and_window():
    claim = claims.Claim(
        "hardly any loss",
        "somebody",
        "new",
        allowance=0.3,
        window=("params", 0.49, 0.6),
    )
    found = claims.judge(
        claim,
        runs(
            *series("new", (91.8, 91.85, 91.9)),
            *series("new", (50.0, 50.0, 50.0), target=0.75),
        ),
    )
    # at 75 % nothing was claimed
    assert [f.target for f in found] == [(0.5,)]
    assert found[0].mean == pytest.approx(0.15)
    assert found[0].verdict == claims.CONFIRMED


def test_growth_is_the_difference_of_differences():
    claim = claims.Claim("grows", "somebody", "new", "old", grows=True)
    half = [*series("new", (81.0,) * 3), *series("old", (80.0,) * 3)]
    assert claims.judge(claim, runs(*half)) == []
    more = [
        *series("new", (74.0, 74.1, 74.2), target=0.75),
        *series("old", (70.0,) * 3, target=0.75),
    ]
    [finding] = claims.judge(claim, runs(*half, *more))
    assert finding.target == (0.5, 0.75)
    assert finding.mean == pytest.approx(3.1)
    assert finding.verdict == claims.CONFIRMED


def test_verdicts_stand_on_the_page(tmp_path):
    text = written(
        tmp_path,
        [
            *series("soft", (81.0, 82.0, 83.0)),
            *series("later-uniform-folded-l1", (80.0, 81.0, 82.1)),
        ],
    )
    [row] = rows(text, "Setting filters to 0 and letting them return")
    assert row[2:] == [
        "50 %",
        "+0.97",
        "+0.82 to +1.11",
        "3",
        "**confirmed**",
    ]
    assert "In short: 1 confirmed, 0 contradicted, 0 undecided" in text
    untested = text[text.index("Not tested by these runs") :]
    assert untested.count("\n- ") == len(claims.CLAIMS) - 1


def test_nothing_is_claimed_without_runs(tmp_path):
    text = written(tmp_path, [result("nobody", 80.0)])
    assert "In short" not in text
    untested = text[text.index("Not tested by these runs") :]
    assert untested.count("\n- ") == len(claims.CLAIMS)


def test_memory_has_a_column_where_runs_tell_of_it():
    runs = [result("a", 80.0), result("b", 81.0, memory={"removed": 0.96})]
    head, _, first, second = page.table(runs)
    assert "| memory removed |" in head
    assert first.count("|") == second.count("|") == head.count("|")
    assert "| 96.0 % |" in second
    assert "memory" not in page.table(runs[:1])[0]


# -- pages of methods ------------------------------------------------------


def trained(arm, final, seed=0, target=0.5, training=70.0, **changes):
    one = result(arm, final, seed, target, **changes)
    one["epochs"][-1]["training_accuracy"] = training
    return one


def test_marked_tables_of_method_pages_are_filled():
    found = {
        "series": [
            trained("soft", 80.0, training=60.0),
            trained("soft", 83.0, seed=1, training=62.0),
            trained("hard", 75.0),
            trained("hard", 55.0, target=0.75),
            trained("other", 99.0),
        ]
    }
    text = (
        "before\n<!-- measured: series soft hard -->\nold\n<!-- end -->\nafter"
    )
    filled = page.measured(text, found)
    assert "old" not in filled and "OTHER" not in filled
    assert filled.startswith("before\n<!-- measured: series soft hard -->\n")
    assert filled.endswith("<!-- end -->\nafter")
    # statistics: deviations sqrt(4.5) and sqrt(2)
    assert rows(filled, "SOFT") == [
        ["SOFT", "50.0 %", "2", "81.50 ± 2.12", "61.00 ± 1.41"]
    ]
    assert rows(filled, "HARD") == [
        ["HARD", "50.0 %", "1", "75.00", "70.00"],
        ["HARD", "75.0 %", "1", "55.00", "70.00"],
    ]
    assert page.measured(filled, found) == filled


def test_dynamic_gates_have_a_row_of_their_own():
    gates = {"final": {"test[5000:]": 65.0}, "mean_macs": {"removed": 0.4}}
    found = {"series": [trained("gated", 41.0, dynamic=gates)]}
    text = "<!-- measured: series gated -->\n<!-- end -->"
    [row] = rows(page.measured(text, found), "the same")
    assert row[1:4] == ["40.0 %, mean", "1", "65.00"]


def test_the_pages_of_methods_hold_what_was_measured():
    found = page.read(page.RESULTS)
    for path in page.METHODS.glob("*.md"):
        text = path.read_text()
        assert page.measured(text, found) == text, (
            f"{path.name}: run python benchmarks/methods/page.py"
        )

"""A sweep tries what was asked, goes on where it ended, and hands out the best."""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
import types
from pathlib import Path

import keras
import numpy as np
import pytest
from cli.running import assert_fails
from cli.running import run
from fitting import arrays
from runs.running import compiled
from runs.running import plain

import kprune
from kprune.commands.sweep import _copy
from kprune.report.sweeps import sweep_table
from kprune.sweep import _trial
from kprune.sweep import finished

TARGET = {"macs": 0.4}
TARGETS = {"macs": [0.4]}


def swept(folder, methods, **options):
    x, y = arrays(64)
    return kprune.sweep(
        compiled(),
        methods,
        {"macs": [0.4]},
        (x[:40], y[:40]),
        (x[40:], y[40:]),
        run_dir=folder,
        **{"epochs": 2, **options},
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    return folder, swept(folder, ["attenuation", "l1"])


def methods(study):
    return [trial.user_attrs["method"] for trial in study.trials]


def test_every_combination_is_a_run(study):
    folder, found = study
    assert methods(found) == ["l1", "attenuation"]
    x, y = arrays(64)
    for trial in finished(found):
        compact = keras.models.load_model(
            f"{trial.user_attrs['run']}/compact.keras"
        )
        assert kprune.cost(compact).macs <= 0.6 * kprune.cost(compiled()).macs
        scores = compact.predict_on_batch(x[40:])
        accuracy = np.mean(scores.argmax(-1) == y[40:])
        assert trial.value == pytest.approx(accuracy, abs=1e-6)
    assert len(finished(found)) == 2
    assert len(list(folder.glob("*/report.html"))) == 3  # with `latest`


def test_the_best_is_handed_out(study):
    _, found = study
    path = kprune.best_model(found, TARGET)
    best = max(finished(found), key=lambda trial: trial.value)
    assert str(path.parent) == best.user_attrs["run"]
    with pytest.raises(ValueError, match="No trial of the sweep has finished"):
        kprune.best_model(found, {"macs": 0.9})


def test_trials_are_said_by_progress_and_optuna_keeps_quiet(tmp_path, capfd):
    import optuna

    from kprune.report.progress import progress
    from kprune.report.sweeps import TrialProgress

    optuna.logging.set_verbosity(optuna.logging.INFO)
    with progress() as bars:
        found = [TrialProgress(bars)]
        swept(tmp_path, ["l1", "random"], epochs=0, callbacks=found)
    said = capfd.readouterr().err.splitlines()
    assert [line.split(":")[0].split("s  ")[1] for line in said] == [
        "l1 macs=0.4",
        "random macs=0.4",
    ]
    assert [line.split(",")[0] for line in said] == ["trials 1/2", "trials 2/2"]
    assert optuna.logging.get_verbosity() == optuna.logging.INFO


def test_a_trial_that_fails_is_told_once(tmp_path, caplog, monkeypatch):
    def fails(*_):
        raise RuntimeError("no room left")

    module = importlib.import_module("kprune.sweep._trial")
    monkeypatch.setattr(module, "_pruned", fails)
    with pytest.raises(RuntimeError, match=r"first, of 'l1' .* no room left"):
        swept(tmp_path, ["l1", "l2"], epochs=0)
    told = [r.getMessage() for r in caplog.records if r.name == "kprune"]
    assert told == [
        f"The trial of '{name}' with {{'macs': 0.4}} failed: RuntimeError: no room left"
        for name in ("l1", "l2")
    ]


def test_a_winner_without_a_run_is_marked_and_named():
    import optuna

    study = optuna.create_study(direction="maximize")
    study.set_user_attr("metric", "accuracy")
    study.set_user_attr("original", 0.9)
    for method, value in (("l1", 0.5), ("network-adjustment", 0.6)):
        asked = {"method": method, "target": TARGET, "parts": {}}
        if method == "l1":
            asked["run"] = "runs/one"
        study.add_trial(optuna.create_trial(value=value, user_attrs=asked))
    stars, _, names, *_ = sweep_table(study).columns
    assert list(map(str, stars.cells)) == ["*", ""]
    assert list(map(str, names.cells)) == ["network-adjustment", "l1"]
    lost = optuna.create_trial(
        state=optuna.trial.TrialState.PRUNED,
        intermediate_values={0: 0.1, 1: 0.25},
        user_attrs={"method": "l2", "target": TARGET, "parts": {}},
    )
    study.add_trial(lost)
    values = sweep_table(study).columns[4].cells
    assert list(values)[-1].plain == "ended early at 25.00 %"
    with pytest.raises(ValueError, match="'network-adjustment', has no run"):
        kprune.best_model(study, TARGET)


def test_a_study_keeps_its_settings(study):
    folder, found = study
    for option, text in (
        ({"metric": "loss"}, "metric='accuracy', not 'loss'; direction="),
        ({"epochs": 3}, "epochs=2, not 3. "),
        ({"seed": 1}, "seed=0, not 1. "),
        ({"learning_rate": 0.5}, "learning_rate=0.0"),
        ({"batch_size": 32}, "batch_size=64, not 32. "),
    ):
        with pytest.raises(ValueError, match=f"was begun with {text}"):
            swept(folder, ["l1"], **option)
    x, y = arrays(64)
    model, pair, other = compiled(), (x[:40], y[:40]), (x[40:], y[40:])
    relabelled = (x[:40], y[:40][::-1])
    for data, validation, text in (
        (relabelled, other, "another data. "),
        (pair, pair, "another validation. "),
    ):
        with pytest.raises(ValueError, match=f"was begun with {text}"):
            kprune.sweep(
                model,
                ["l1"],
                TARGETS,
                data,
                validation,
                run_dir=folder,
                epochs=2,
            )
    assert found.user_attrs["metric"] == "accuracy"


@pytest.mark.parametrize(
    ("data", "received"),
    [
        (None, "NoneType"),
        (arrays(8)[0], "inputs only"),
        ([arrays(4), arrays(4)], "list"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(tmp_path, data, received):
    with pytest.raises(ValueError, match=rf"`data` as \(x, y\).*: {received}"):
        kprune.sweep(
            compiled(),
            ["l1"],
            TARGETS,
            data,
            arrays(8),
            run_dir=tmp_path / "new",
        )
    assert not (tmp_path / "new").exists()


def test_it_goes_on_with_what_is_new(study):
    folder, found = study
    numbers = [trial.number for trial in finished(found)]
    plain()  # The next model's name has another number.
    again = swept(folder, ["l1", "random", "attenuation"])
    assert methods(again) == ["l1", "attenuation", "random"]
    assert [trial.number for trial in finished(again)] == [*numbers, 2]


def test_a_trial_that_ctrl_c_ended_is_tried_again(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    module = importlib.import_module("kprune.sweep._trial")
    with monkeypatch.context() as patch:
        patch.setattr(module, "_pruned", interrupted)
        with pytest.raises(KeyboardInterrupt):
            swept(tmp_path, ["l1", "l2"], epochs=0)
    found = swept(tmp_path, ["l1", "l2"], epochs=0)
    assert sorted(t.user_attrs["method"] for t in finished(found)) == [
        "l1",
        "l2",
    ]
    assert sweep_table(found).row_count == 2


def test_training_that_loses_ends_early(tmp_path, study):
    import optuna

    _, found = study
    other = optuna.create_study(direction="maximize", pruner=found.pruner)
    for value, target in ((0.9, TARGET), (0.1, {"macs": 0.7})):
        trial = optuna.create_trial(
            value=value,
            intermediate_values={0: value},
            user_attrs={"target": target},
        )
        other.add_trial(trial)
    results = []
    for target in (TARGET, {"macs": 0.7}):
        trial = other.ask()
        trial.set_user_attr("target", target)
        trial.report(0.5, 0)
        results.append(trial.should_prune())
    assert results == [True, False]


def test_criteria_train_as_long_as_recipes(study):
    _, found = study
    trained = {
        trial.user_attrs["method"]: len(trial.intermediate_values)
        for trial in found.trials
        if trial.state.name == "COMPLETE"
    }
    assert trained["l1"] == 2
    # All filters went before the first epoch, and it was training that followed.
    run = kprune.Run(found.trials[0].user_attrs["run"]).record
    assert [event["epoch"] for event in run["events"]] == [0]
    assert len(run["epochs"]) == 2
    assert run["method"] == "l1"


def test_without_epochs_nothing_trains(tmp_path):
    found = swept(tmp_path, None, epochs=0)
    assert methods(found) == ["default", "l1", "taylor"]
    x, y = arrays(64)
    masked = kprune.prune(compiled(), "l1", TARGET, data=(x[:40], y[:40]))
    expected = kprune.rebuild(masked).evaluate(x[40:], y[40:], verbose=0)[1]
    assert found.trials[1].value == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="'similarity' trains for at least 2"):
        swept(tmp_path, ["similarity"], epochs=1)


def test_what_is_pruned_when_time_is_over_counts(tmp_path, caplog, monkeypatch):
    module = importlib.import_module("kprune.sweep._trial")
    over = types.SimpleNamespace(monotonic=lambda: float("inf"))
    monkeypatch.setattr(module, "time", over)
    found = swept(tmp_path, ["l1", "attenuation"], epochs=3)
    assert [len(t.intermediate_values) for t in finished(found)] == [1]
    assert "after 1 of 3 epochs of the trial of 'l1'" in caplog.text


def test_a_decayed_learning_rate_is_raised_and_falls_again(tmp_path, caplog):
    model = compiled()
    model.optimizer.learning_rate = 1e-6
    x, y = arrays(64)
    data, options = (x[:40], y[:40]), {"run_dir": tmp_path, "epochs": 2}
    rates = []

    class Watched(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            rates.append(float(self.model.optimizer.learning_rate))

    module = importlib.import_module("kprune.sweep._trial")
    prepared = module._prepared

    def watched(*args):
        masked, actions = prepared(*args)
        return masked, [*actions, Watched()]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_prepared", watched)
        found = kprune.sweep(
            model, ["l1"], {"macs": [0.4]}, data, (x[40:], y[40:]), **options
        )
    assert rates == pytest.approx([1e-3, 5e-4])
    assert "a learning rate of 1e-06, too low" in caplog.text
    compact = kprune.load(kprune.best_model(found, TARGET))
    assert float(compact.optimizer.learning_rate) == pytest.approx(1e-3)
    assert float(model.optimizer.learning_rate) == pytest.approx(1e-6)


def test_a_schedule_of_the_optimizer_is_kept(tmp_path):
    model = compiled()
    rate = keras.optimizers.schedules.PolynomialDecay(0.1, 9, 0.01)
    model.compile(keras.optimizers.SGD(rate), model.loss, metrics=["accuracy"])
    x, y = arrays(64)
    with pytest.raises(ValueError, match="has a schedule"):
        kprune.sweep(
            model,
            ["l1"],
            data=(x, y),
            validation=(x, y),
            learning_rate=0.1,
            run_dir=tmp_path / "runs",
        )


def test_tensors_train_and_several_optimizers_keep_their_rates(tmp_path):
    model, optimizer = compiled(), keras.optimizers.SGD(0.02)
    if hasattr(keras.optimizers, "MultiOptimizer"):
        optimizer = keras.optimizers.MultiOptimizer(
            keras.optimizers.OptimizerMap(
                optimizer, {"head/.*": keras.optimizers.SGD(0.01)}
            )
        )
    model.compile(optimizer, model.loss, metrics=["accuracy"])
    x, y = (keras.ops.convert_to_tensor(a) for a in arrays(16))
    found = kprune.sweep(
        model,
        ["l1"],
        {"macs": [0.4]},
        (x, y, None),
        (x, y),
        epochs=1,
        run_dir=tmp_path,
    )
    assert len(finished(found)) == 1


def test_a_generator_serves_every_trial(tmp_path):
    x, y = arrays(16)
    batches = ((part, None) for part in (x[:8], x[8:]))
    found = kprune.sweep(
        compiled(),
        ["entropy", "apoz"],
        {"macs": [0.4]},
        batches,
        (x, y),
        epochs=0,
        run_dir=tmp_path,
    )
    assert len(finished(found)) == 2


def test_wrong_names_on_the_command_line_are_wrong_usage():
    result = run("sweep", "m.keras", "--data", "x.npz", "--methods", "l1,l11")
    told = " ".join(result.stderr.replace("│", "").split())
    assert result.exit_code == 2 and "received 'l11'. Did you mean" in told


def test_wrong_names_are_refused_before_anything_runs(tmp_path):
    for wrong, text in (
        (["l11"], "Did you mean 'l1'"),
        (["l1"], "no metric 'f1'"),
    ):
        with pytest.raises(ValueError, match=text):
            swept(tmp_path / "runs", wrong, metric="f1")
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def command(tmp_path):
    """Run `kprune sweep` on a small model without training."""
    x, y = arrays(48)
    compiled().save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", x=x, y=y)
    np.savez(tmp_path / "bare.npz", x=x)

    def sweep(data="data.npz", *options):
        given = (
            "--data",
            tmp_path / data,
            "--validation",
            tmp_path / "data.npz",
        )
        given += ("--methods", "l1", "--reduce", "macs=0.4", *options)
        given += ("--run-dir", tmp_path / "runs", "--out", tmp_path / "b.keras")
        return run("sweep", tmp_path / "model.keras", *given)

    return sweep


def test_the_table_comes_first_and_the_report_is_extra(
    command, tmp_path, monkeypatch
):
    (tmp_path / "runs" / "damaged").mkdir(parents=True)
    (tmp_path / "runs" / "damaged" / "run.json").write_text("{")
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.setenv("COLUMNS", "40")  # does not count in a pipe
    result = command("data.npz", "--epochs", 0)
    assert result.exit_code == 0, result.output
    assert "macs=0.4" in result.stdout and "…" not in result.stdout
    assert result.stdout.endswith(f"wrote {tmp_path / 'b.keras'}\n")
    assert (
        'A report needs jinja2: pip install "kprune[report]"' in result.stderr
    )


def test_a_sweep_in_which_nothing_finishes_fails(
    command, tmp_path, monkeypatch
):
    assert_fails(command("bare.npz"), "bare.npz", "training needs targets")
    assert not (tmp_path / "runs").exists()

    def fails(*_):
        raise RuntimeError("no room left")

    module = importlib.import_module("kprune.sweep._trial")
    with monkeypatch.context() as patch:
        patch.setattr(module, "_pruned", fails)
        result = command("data.npz", "--epochs", 0)
    assert_fails(result, "Every trial", "no room left", "another `--name` or")
    assert not (tmp_path / "b.keras").exists()
    # A failed trial is not tried again, but the other target is.
    result = command("data.npz", "--epochs", 0, "--reduce", "macs=0.3,0.4")
    assert result.exit_code == 0, result.output
    assert "no trial has finished with macs=0.4: no model" in result.stderr
    assert (tmp_path / "b.keras").exists()


def test_no_model_of_a_target_replaces_an_input(command, tmp_path):
    (tmp_path / "model.keras").rename(tmp_path / "b-macs0.5.keras")
    data, out = tmp_path / "data.npz", tmp_path / "b.keras"
    result = run(
        *("sweep", tmp_path / "b-macs0.5.keras", "--out", out, "--epochs", 0),
        *("--data", data, "--validation", data),
        *("--methods", "l1", "--reduce", "macs=0.3,0.5"),
        *("--run-dir", tmp_path / "runs"),
    )
    assert_fails(result, "b-macs0.5.keras' is an input of this command")
    assert not (tmp_path / "runs").exists()


def test_nor_does_one_of_an_earlier_target(tmp_path):
    trials = [
        types.SimpleNamespace(
            number=n,
            value=0.5,
            state=types.SimpleNamespace(name="COMPLETE"),
            user_attrs={"target": {"macs": share}, "run": str(tmp_path)},
        )
        for n, share in enumerate((0.3, 0.5))
    ]
    study = types.SimpleNamespace(
        get_trials=lambda deepcopy: trials,
        direction=types.SimpleNamespace(name="MAXIMIZE"),
    )
    (tmp_path / "compact.keras").write_text("best")
    model = tmp_path / "b-macs0.5.keras"
    model.write_text("model")
    with pytest.raises(ValueError, match="is an input of this command"):
        _copy(study, tmp_path / "b.keras", (model,))
    assert not (tmp_path / "b-macs0.3.keras").exists()
    assert model.read_text() == "model"
    assert _copy(study, tmp_path / "c.keras", (model,)) == [
        tmp_path / "c-macs0.3.keras",
        tmp_path / "c-macs0.5.keras",
    ]


@pytest.mark.slow
def test_the_command_prints_the_table_and_writes_the_best(tmp_path):
    x, y = arrays(48)
    compiled().save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", x=x, y=y)
    given = [
        "--data",
        tmp_path / "data.npz",
        "--validation",
        tmp_path / "data.npz",
    ]
    given += [
        "--methods",
        "l1",
        "--reduce",
        "macs=0.4",
        "--out",
        tmp_path / "b.keras",
    ]
    result = run(
        "sweep",
        tmp_path / "model.keras",
        *given,
        "--run-dir",
        tmp_path / "runs",
    )
    assert result.exit_code == 0, result.output
    assert "macs=0.4" in result.output
    smaller = keras.models.load_model(tmp_path / "b.keras")
    assert kprune.cost(smaller).macs <= 0.6 * kprune.cost(compiled()).macs
    assert (tmp_path / "runs" / "report.html").is_file()


def states(url):
    import optuna

    try:
        (summary,) = optuna.get_all_study_summaries(url)
    except (ValueError, optuna.exceptions.StorageInternalError):
        return []
    study = optuna.load_study(study_name=summary.study_name, storage=url)
    return [(t.state.name, t.user_attrs.get("target")) for t in study.trials]


@pytest.mark.slow
def test_of_four_processes_two_are_killed_and_nothing_is_lost(tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    script = [sys.executable, Path(__file__).with_name("sweeping.py"), tmp_path]
    slow = [subprocess.Popen([*script, "600"]) for _ in range(2)]
    try:
        deadline = time.monotonic() + 300
        while [s for s, _ in states(url)].count("RUNNING") < 2:
            assert time.monotonic() < deadline
            assert all(process.poll() is None for process in slow)
            time.sleep(3)
    finally:
        for process in slow:
            process.kill()
            process.wait()
    assert all(state != "COMPLETE" for state, _ in states(url))
    quick = [subprocess.Popen([*script, "0"]) for _ in range(2)]
    assert [process.wait(timeout=300) for process in quick] == [0, 0]
    found = states(url)
    assert [s for s, _ in found].count("FAIL") == 2
    assert [s for s, _ in found].count("COMPLETE") == 6


def test_trials_report_the_mean_of_a_metric_for_each_class():
    told = {}
    watch = _trial._Watch(
        types.SimpleNamespace(
            report=lambda value, epoch: told.update({epoch: value})
        ),
        types.SimpleNamespace(metric="f1_score", epochs=1),
    )
    watch.on_epoch_end(0, {"val_f1_score": np.array([0.25, 0.75])})
    assert told == {0: 0.5}

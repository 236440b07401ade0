"""Exit codes, interruption, progress in logs, completion."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
from cli.running import assert_fails
from cli.running import run
from fitting import arrays
from fitting import loss
from fitting import small_net

from kprune.cli import app
from kprune.commands import inspect
from kprune.commands import training
from kprune.commands.export import export
from kprune.commands.latency import latency
from kprune.commands.options import in_options
from kprune.commands.options import one_line_errors
from kprune.commands.resume import Resumable
from kprune.runs import Run


@pytest.fixture
def files(tmp_path):
    net = small_net(8)
    net.compile(keras.optimizers.SGD(0.05), loss(), metrics=["accuracy"])
    net.save(tmp_path / "model.keras")
    x, y = arrays(32)
    np.savez(tmp_path / "train.npz", x=x, y=y)
    return tmp_path


def prune(files, *more):
    return run(
        *("prune", files / "model.keras", files / "small.keras"),
        *("--data", files / "train.npz", "--method", "similarity"),
        *("--epochs", 3, *more),
    )


class Interrupt(keras.callbacks.Callback):
    """Ctrl-C in the third epoch, and a record of the epochs that began."""

    begun: list[int]

    def on_epoch_begin(self, epoch, logs=None):
        self.begun.append(epoch)
        if epoch == 2 and self.begun == [0, 1, 2]:
            raise KeyboardInterrupt


def test_nothing_is_left_of_a_training_that_diverged(files):
    result = prune(files, "--learning-rate", 1e20)
    assert result.exit_code == 1
    assert "lower learning rate" in result.stderr.splitlines()[-1]
    assert {p.name for p in files.glob("small*")} == set()


def test_an_interrupted_training_goes_on(files, monkeypatch):
    Interrupt.begun = []
    bar = training.FitProgress

    def bars(*arguments):
        return keras.callbacks.CallbackList([bar(*arguments), Interrupt()])

    monkeypatch.setattr(training, "FitProgress", bars)
    result = prune(files)
    assert result.exit_code == 130
    assert "the same command continues" in result.stderr.splitlines()[-1]
    assert not (files / "small.keras").exists()
    other = prune(files, "--learning-rate", 0.01)
    assert other.exit_code == 1 and "of another command" in other.stderr
    result = prune(files)
    assert result.exit_code == 0
    assert Interrupt.begun == [0, 1, 2, 2]
    assert not (files / "small.keras.resume").exists()
    assert (files / "small.keras").exists()
    # What a log gets: a line of plain text for each step and epoch.
    assert result.stderr.isascii() and "\r" not in result.stderr
    lines = result.stderr.splitlines()
    (epoch,) = [line for line in lines if line.startswith("similarity 3/3")]
    assert "loss " in epoch
    assert any(line.startswith("rebuilding, ") for line in lines)


@pytest.mark.parametrize(
    "method", ["similarity-soft", pytest.param("kdfs", marks=pytest.mark.slow)]
)
def test_what_was_trained_outlives_a_failing_end(files, monkeypatch, method):
    def fails(*arguments, **options):
        raise OSError("No space left on device.")

    (files / "twice").mkdir()
    shutil.copy(files / "model.keras", files / "twice")
    shutil.copy(files / "train.npz", files / "twice")
    given = ("--method", method, "--learning-rate", 0.01)
    keras.utils.set_random_seed(0)
    assert prune(files / "twice", *given).exit_code == 0
    keras.utils.set_random_seed(0)
    kept = files / "small.keras.resume"
    with monkeypatch.context() as patch:
        patch.setattr("kprune.export", fails)
        result = prune(files, *given)
    assert_fails(
        result,
        "No space left on device. The trained model is in",
        "Once the cause is mended",
        f"remove {str(kept)!r} to start again",
    )
    assert not (files / "small.keras").exists()
    (files / "model.keras").rename(files / "old.keras")
    small_net(8).save(files / "model.keras")
    assert_fails(prune(files, *given), "model.keras' has changed since")
    (files / "old.keras").replace(files / "model.keras")
    monkeypatch.setattr(keras.Model, "fit", fails)  # There is no need to.
    saved = run("export", kept / "trained.keras", files / "saved.keras")
    assert saved.exit_code == 0, saved.output
    result = prune(files, *given)
    assert result.exit_code == 0, result.output
    assert not kept.exists()
    whole, *others = (
        keras.models.load_model(files / name).get_weights()
        for name in ("twice/small.keras", "small.keras", "saved.keras")
    )
    for other in others:
        for a, b in zip(whole, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_epochs_outlive_a_later_one_that_fails(files, monkeypatch):
    bar = training.FitProgress

    class Fail(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise MemoryError

    def bars(*arguments):
        return keras.callbacks.CallbackList([bar(*arguments), Fail()])

    with monkeypatch.context() as patch:
        patch.setattr(training, "FitProgress", bars)
        result = prune(files)
    assert_fails(
        result, "MemoryError. The state after the last saved epoch is in"
    )
    lines = prune(files).stderr.splitlines()
    assert not any(line.startswith("similarity 1/3") for line in lines)
    assert any(line.startswith("similarity 3/3") for line in lines)


def test_a_resumed_run_adds_its_measurements_to_the_record(files, monkeypatch):
    def fails(*arguments, **options):
        raise OSError("full")

    given = ("--run-dir", files / "runs", "--learning-rate", 0.01)
    with monkeypatch.context() as patch:
        patch.setattr("kprune.export", fails)
        assert prune(files, *given).exit_code == 1
    result = prune(files, *given)
    assert result.exit_code == 0, result.output
    rows = {row["name"]: row for row in Run(files / "runs").record["results"]}
    assert rows["original"]["metrics"] and rows["compact"]["metrics"]


@pytest.mark.parametrize("changed", ["model.keras", "photos/cat/1.jpg"])
def test_a_state_is_not_continued_with_changed_files(tmp_path, changed):
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    begins = [tmp_path / "model.keras", tmp_path / "photos"]
    for file in (begins[0], begins[1] / "cat" / "1.jpg"):
        file.write_text("old")

    def resumable():
        return Resumable(tmp_path / "small.keras", "kprune prune", begins)

    first = resumable()
    with pytest.raises(RuntimeError, match=r"remove .* to start again"):
        with first.kept():
            first.trained.touch()
            raise OSError("full")
    (begins[1] / ".DS_Store").touch()
    resumable()
    (tmp_path / changed).write_text("newer")
    with pytest.raises(ValueError, match="has changed since"):
        resumable()
    # Without an epoch there is nothing to mix with; earlier versions noted no files.
    first.trained.unlink()
    resumable()
    first.trained.touch()
    (first.folder / "command.json").write_text('{"command": "kprune prune"}')
    resumable()


def test_a_format_without_state_is_refused_before_training(
    tmp_path, monkeypatch
):
    def trains(*arguments, **options):
        raise AssertionError("trains")

    monkeypatch.setattr(keras.Model, "fit", trains)
    inputs = keras.Input(batch_shape=(8, 5, 3))
    memory = keras.layers.LSTM(4, stateful=True, name="memory")
    net = keras.Model(inputs, memory(inputs))
    net.compile("sgd", "mse")
    net.save(tmp_path / "model.keras")
    np.savez(tmp_path / "train.npz", x=np.zeros((8, 5, 3)), y=np.zeros((8, 4)))
    result = run(
        *("prune", tmp_path / "model.keras", tmp_path / "small.onnx"),
        *("--data", tmp_path / "train.npz", "--method", "similarity"),
    )
    assert_fails(result, "'memory'", "is stateful", "Write a .keras file")


def test_a_run_that_continues_needs_the_same_validation(files, monkeypatch):
    shutil.copy(files / "train.npz", files / "other.npz")
    noted = []

    def resumable(out, command, begins):
        noted.extend(begins)
        raise ValueError("enough")

    monkeypatch.setattr("kprune.commands.prune.Resumable", resumable)
    assert_fails(prune(files, "--validation", files / "other.npz"), "enough")
    assert files / "other.npz" in noted and files / "train.npz" in noted


@pytest.mark.parametrize("signal_", ["SIGTERM", "SIGKILL"])
def test_a_run_without_an_epoch_does_not_block_another(tmp_path, signal_):
    first = Resumable(tmp_path / "small.keras", "kprune prune a")
    with pytest.raises(SystemExit), first.kept():
        (first.backup).mkdir()
        half = first.backup / "latest.weights.h5"
        half.write_text("half")
        raise SystemExit(143)
    assert not first.folder.exists()
    if signal_ == "SIGKILL":
        half.parent.mkdir(parents=True)
        half.write_text("half")
        (first.folder / "command.json").write_text(
            '{"command": "kprune prune a", "files": {}}'
        )
    second = Resumable(tmp_path / "small.keras", "kprune prune b")
    with second.kept():
        assert not half.exists()
        assert "kprune prune b" in (second.folder / "command.json").read_text()


def test_sigterm_after_an_epoch_keeps_it(tmp_path):
    first = Resumable(tmp_path / "small.keras", "kprune prune a")
    with pytest.raises(SystemExit, match="143"), first.kept():
        first.trained.touch()
        raise SystemExit(143)
    assert Resumable(tmp_path / "small.keras", "kprune prune a").begun
    with pytest.raises(ValueError, match="of another command"):
        Resumable(tmp_path / "small.keras", "kprune prune b")


def test_ctrl_c_before_that_leaves_nothing(files, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(keras.Model, "fit", interrupted)
    before = sorted(os.listdir(files))
    assert prune(files).exit_code == 130
    assert sorted(os.listdir(files)) == before
    monkeypatch.setattr(inspect, "start_keras", interrupted)
    result = run("inspect", files / "model.keras")
    assert result.exit_code == 130
    assert result.stderr == "kprune: interrupted.\n"


# -- processes that load no Keras --------------------------------------------


def kprune(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "kprune", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def test_the_module_is_the_command():
    result = kprune("prune", "modle.keras", "b.keras", "--criterion", "taylr")
    assert result.returncode == 2
    assert "Usage: kprune prune" in result.stderr
    assert "Did you mean 'taylor'" in " ".join(result.stderr.split())


def test_completion_knows_commands_and_names():
    def offered(line):
        words = line.split(" ")
        told = kprune(
            _KPRUNE_COMPLETE="complete_bash",
            COMP_WORDS=line,
            COMP_CWORD=str(len(words) - 1),
        )
        return told.stdout.split()

    assert offered("kprune pru") == ["prune"]
    assert offered("kprune prune --method atten") == ["attenuation"]
    assert "bn,mimic" in offered("kprune prune --recover bn,mi")


def test_warnings_of_the_library_look_like_those_of_commands():
    code = (
        "import logging, kprune.cli\n"
        "log = logging.getLogger('kprune')\n"
        "kprune.cli.app = lambda **options: log.warning('odd')\n"
        "kprune.cli.main()"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr == "kprune: warning: odd\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_an_exit_code(number):
    code = (
        "import os, kprune.cli\n"
        "def app(**options): os.kill(os.getpid(), %d)\n"
        "kprune.cli.app = app\nkprune.cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code % number])
    assert done.returncode == 128 + number


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("inspct a.keras", 2, "Did you mean 'inspect'"),
        ("inspect modle.keras", 1, "Did you mean 'model.keras'"),
        ("prune model.keras b.keras --redcue macs=0.5", 2, "--reduce"),
        ("prune model.keras b.keras --reduce mac=0.5", 2, "'macs'"),
        ("prune model.keras b.keras --data photo", 1, "Did you mean 'photos'"),
        ("prune model.keras b.keras --criterion taylor", 2, "give --data"),
        ("prune model.keras b.keras --recover mimic", 2, "give --data"),
        ("prune model.keras b.keras --method refit --epochs 1 --data d.npy", 2,
         "needs 2 epochs"),
        ("prune model.keras b.keras --reduce ram=.5 --runtime ethos-u99", 2,
         "'ethos-u55-128'"),
        ("prune model.keras b.keras --data d.npy --criterion taylor", 1,
         "has no targets"),
        ("prune model.keras b.keras --data d.npy --method hgs", 1,
         "needs targets"),
        ("prune model.keras b.keras --image-size 8", 2, "--data"),
        ("prune model.keras b.keras --data d.npy --image-size 8by8", 2, "224"),
        ("prune model.keras b.keras --data d.npy --pixels unti", 2, "'unit'"),
        ("export model.keras b.tflte", 2, "Did you mean '.tflite'"),
        ("export model.keras b.onnx --quantize int8 --data d.npy", 2, "onnx"),
        ("export model.keras b.h --quantize float16", 2, "takes int8 or qat"),
        ("export model.keras b.tflite --opset 13", 2, "it is for .onnx"),
        ("export model.keras b.onnx --opset 3", 2, "'--opset'"),
        ("export model.keras b.tflite --epochs 2", 2, "no training without"),
        ("export model.keras b.tflite --clusters 8 --epochs 2", 2, "--data"),
        ("export model.keras b.tflite --io-dtype int8", 2, "needs --quantize"),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_keras_is_loaded(
    arguments, code, said, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "1.jpg").touch()
    (tmp_path / "model.keras").touch()
    np.save("d.npy", np.zeros(2))
    from kprune.commands import export
    from kprune.commands import prune as command

    stop = types.SimpleNamespace(called=False)

    def loads():
        stop.called = True
        raise AssertionError("Keras is loaded")

    for module in (command, export, inspect):
        monkeypatch.setattr(module, "start_keras", loads)
    result = run(*arguments.split())
    told = " ".join(result.output.replace("│", "").split())
    assert result.exit_code == code, told
    assert said in told and not stop.called


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_closed_pipe_ends_a_command_quietly(lines):
    code = f"""
import typer
from kprune.commands.options import one_line_errors
app = typer.Typer()
app.command()(one_line_errors(lambda: print("line\\n" * {lines})))
app()
"""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_command_without_a_standard_output_succeeds(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert one_line_errors(lambda: 3)() == 3


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("pass a larger `tolerance`.", "pass a larger `--tolerance`."),
        ("`io_dtype='int8'` needs", "`--io-dtype int8` needs"),
        ("none without quantize='qat' or clusters=16. Leave",
         "none without --quantize qat or --clusters 16. Leave"),
        ("Received: epochs=1.", "Received: --epochs 1."),
        ("of layer `conv` or `model`", "of layer `conv` or `model`"),
        ("export(model, epochs=3) or export(epochs=3)",
         "export(model, epochs=3) or export(epochs=3)"),
        ("`data=(x, y)` or data=x", "`data=(x, y)` or data=x"),
        ("`as_json` of 'a=`epochs.keras'", "`--json` of 'a=`epochs.keras'"),
    ],
)  # fmt: skip
def test_arguments_in_messages_are_options(message, said):
    for command in (export, one_line_errors(export)):
        assert in_options(message, command) == said


def test_all_commands_tell_their_options():
    for info in (*app.registered_commands, *latency.registered_commands):
        assert in_options("`debug`", info.callback) == "`--debug`"

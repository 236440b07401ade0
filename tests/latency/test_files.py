"""Tables of other devices, by way of files, a script and its logs."""

import json
import os
import subprocess
from pathlib import Path

import fake_device
import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.latency import LatencyTable
from kprune.latency import load
from kprune.latency import read_logs
from kprune.latency import write_files
from kprune.latency.conversion import Conversion
from kprune.latency.logs import parse_log
from kprune.latency.manifest import load_manifest
from kprune.latency.model import predict
from kprune.latency.profiling import fill

pytestmark = pytest.mark.tensorflow

LOG = """STARTING!
Log parameter values verbosely: [0]
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
INFO: count=50 first=9 curr=8 min=7 max=99 avg=9.1 std=3 p5=7 median=8 p95=12

INFO: Inference timings in us: Init: 1419, First inference: 4556, \
Warmup (avg): 3811.5, Inference (avg): {}
INFO: Memory footprint delta from the start of the tool (MB): init=1 overall=2
"""

FAKE = """#!/bin/sh
# Takes a microsecond for 1000 bytes; writes down how it was called.
for word in "$@"; do
    case $word in --graph=*) file=${word#--graph=} ;; esac
done
echo "$*" >> "$CALLS"
case $file in *$BROKEN*) echo "ERROR: cannot run this"; exit 1 ;; esac
bytes=$(wc -c < "$file")
echo "STARTING!"
echo "Inference timings in us: Init: 9, First inference: 9, Warmup (avg): 9, \
Inference (avg): $((bytes / 1000)).$((bytes % 1000 / 100))"
"""

ADB = """#!/bin/sh
# A phone that is a folder: its files lie under $PHONE.
command=$1
shift
case $command in
    get-state) echo device ;;
    push)
        if [ "$1" = --sync ]; then shift; fi
        cp -r "$1" "$PHONE$2" ;;
    shell)
        case $1 in
            getprop) printf 'Fake 9\\r\\n'; exit ;;
        esac
        cd "$PHONE" && sh -c "$(echo "$*" | sed "s|/data|$PHONE/data|g")" ;;
esac
"""


def network(width=12):
    x = inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(16, 3, activation="relu", name="first")(x)
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    x = layers.Conv2D(width, 1, name="second")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(4)(x))


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return network()


@pytest.fixture(scope="module")
def written(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("device") / "files of a model"
    return write_files(model, folder)


@pytest.fixture
def folder(written, tmp_path):
    """A copy that a test may fill with logs."""
    subprocess.run(["cp", "-r", written.folder, tmp_path / "copy"], check=True)
    return tmp_path / "copy"


@pytest.fixture
def program(tmp_path):
    return script(tmp_path / "benchmark_model", FAKE)


def script(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def run(folder, tmp_path, **variables):
    calls = tmp_path / "calls.txt"
    before = len(calls.read_text().splitlines()) if calls.exists() else 0
    done = subprocess.run(
        ["sh", folder / "measure.sh"],
        env={
            "PATH": os.environ["PATH"],
            "CALLS": str(calls),
            "BROKEN": "nothing",
            **{k: str(v) for k, v in variables.items()},
        },
        capture_output=True,
        text=True,
        check=False,
    )
    lines = calls.read_text().splitlines() if calls.exists() else []
    return done, lines[before:]


def write_logs(folder, threads=1, timer=fake_device.milliseconds):
    logs = folder / "logs" / f"threads-{threads}"
    logs.mkdir(parents=True)
    for file in (folder / "files").iterdir():
        microseconds = 1000 * timer(file.read_bytes())
        (logs / f"{file.stem}.log").write_text(LOG.format(microseconds))
    return logs


# -- files -----------------------------------------------------------------


def test_what_is_written_is_what_is_told(written):
    files = list((written.folder / "files").iterdir())
    assert written.count == len(files)
    assert written.size == sum(f.stat().st_size for f in files)
    assert f"{len(files)} files" in str(written)
    assert {f.name for f in files} == set(load_manifest(written.folder).files())


def test_every_operator_of_a_table_is_there(written, model):
    manifest = load_manifest(written.folder)
    conversion = Conversion(kprune.wrap(model), "float32")
    assert manifest.layout == conversion.layout
    keys = {key for key, _, _ in manifest.operators.values()}
    assert keys == {op.key for op in conversion.layout.operators}
    assert list(manifest.whole.values()) == [
        tuple(kept) for kept in conversion.kept
    ]
    assert manifest.steps["CONV_2D"] == (1, 8)
    written_widths = {
        write
        for key, _, write in manifest.operators.values()
        if key.startswith("CONV_2D")
    }
    # Filled steps, and widths inside of steps.
    assert {8, 16} < written_widths
    assert any(width % 8 for width in written_widths)


def run_on_litert(file, seed=0):
    """Inputs at random and the only output of a `.tflite` file."""
    from ai_edge_litert.interpreter import Interpreter

    rng = np.random.default_rng(seed)
    interpreter = Interpreter(str(file), num_threads=1)
    interpreter.allocate_tensors()
    inputs = []
    for given in interpreter.get_input_details():
        x = rng.normal(size=given["shape"]).astype(given["dtype"])
        interpreter.set_tensor(given["index"], x)
        inputs.append(x)
    interpreter.invoke()
    (made,) = interpreter.get_output_details()
    return inputs, interpreter.get_tensor(made["index"])


def test_files_of_operators_run_on_litert(written):
    manifest = load_manifest(written.folder)
    varied = set()
    for name, (key, read, write) in manifest.operators.items():
        inputs, y = run_on_litert(written.folder / "files" / name)
        assert np.isfinite(y).all(), key
        widths = {array.shape[-1] for array in (*inputs, y)}
        assert {n for n in (read, write) if n} <= widths, key
        varied.add(key.partition("(")[0] if write else None)
    assert {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"} <= varied


def test_files_of_whole_models_compute_what_keras_does(written, model):
    manifest = load_manifest(written.folder)
    masked = kprune.wrap(model)
    groups = kprune.trace(masked).prunable
    assert len(manifest.whole) > 1
    for name, kept in manifest.whole.items():
        masks = {
            group.name: np.arange(group.size) < count
            for group, count in zip(groups, kept, strict=True)
        }
        kprune.set_masks(masked, masks)
        (x,), y = run_on_litert(written.folder / "files" / name)
        np.testing.assert_allclose(y, masked(x), atol=1e-5)


def test_int8_reads_whole_steps(model, tmp_path):
    write_files(model, tmp_path / "int8", "int8")
    manifest = load_manifest(tmp_path / "int8")
    assert manifest.dtype == "int8"
    assert manifest.steps["CONV_2D"] == (8, 8)
    reads = {
        read
        for key, read, _ in manifest.operators.values()
        if key.startswith("CONV_2D") and read
    }
    assert reads == {8, 16}
    assert "INT8" in next(iter(manifest.operators.values()))[0]


def test_writing_again_and_into_a_folder_of_something_else(written, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.txt").write_text("keep")
    with pytest.raises(ValueError, match="does not hold files of this model"):
        write_files(network(), folder)
    with pytest.raises(ValueError, match="does not hold files of this model"):
        write_files(network(11), written.folder)
    # The same model in another process has other weights and other names.
    again = write_files(network(), written.folder)
    assert again.count == written.count


def test_a_manifest_is_checked(tmp_path, written):
    with pytest.raises(FileNotFoundError, match="write_files"):
        load_manifest(tmp_path)
    data = json.loads((written.folder / "manifest.json").read_text())
    for change in (
        {"kprune_latency_files": 99},
        {"overhead": "../../secret.tflite"},
        {"layout": 3},
        {"dtype": "float16"},
        {"whole": {"a.tflite": [-1]}},
        {"operators": {"a.tflite": ["key", 1]}},
    ):
        text = json.dumps({**data, **change})
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(ValueError, match="not a manifest of version 1"):
            load_manifest(tmp_path)


# -- logs ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        (LOG.format("1234.5"), 1.2345),
        (LOG.format("1.24027e+06"), 1240.27),
        (LOG.format("37\r"), 0.037),
        (
            "I tflite  : Inference timings in us: Init: 92318, First inference: "
            "187533, Warmup (avg): 211669, Inference (avg): 145528",
            145.528,
        ),
        (
            "... tflite  : Average inference timings in us: Warmup: 91471, Init: "
            "4108, Inference: 80660.1",
            80.6601,
        ),
        (
            "Average inference timings in us: Warmup: 83235, Init: 38467, "
            "no stats: 79760.9",
            79.7609,
        ),
        ("Inference timings in us: Init: 1, First inference: 2", None),
        (LOG.format("1.2.3"), None),
        (LOG.format("0"), None),
        (LOG.format("1e999"), None),
        (LOG.format("8") + "\nInference timings in us: Init: 1", 0.008),
        ("nference timings in us:" * 100_000, None),
        (LOG.format("Inference: " * 100_000), None),
        ("ERROR: failed to load", None),
        ("", None),
    ],
)
def test_times_in_logs(text, milliseconds):
    assert parse_log(text) == pytest.approx(milliseconds)


@pytest.mark.slow
def test_the_table_is_that_of_the_device(folder, model, tmp_path):
    write_logs(folder)
    table = read_logs(folder, "a phone")
    assert (table.device, table.dtype, table.threads) == (
        "a phone",
        "float32",
        1,
    )
    expected = LatencyTable("here")
    fill(expected, model, fake_device.milliseconds)
    assert table.overhead == pytest.approx(expected.overhead)
    # The device works on 16 channels at once: steps of 8 tell that as well.
    assert predict(model, table) == pytest.approx(
        predict(model, expected), rel=1e-3
    )
    masked = kprune.wrap(network())
    masks = {n: np.arange(m.size) < 8 for n, m in kprune.masks(masked).items()}
    kprune.set_masks(masked, masks)
    assert predict(masked, table) == pytest.approx(
        predict(masked, expected), rel=0.05
    )
    table.save(tmp_path / "t.json")
    assert predict(model, load(tmp_path / "t.json")) == pytest.approx(
        predict(model, table), rel=1e-3
    )


def test_logs_of_other_threads_are_others(folder):
    write_logs(folder, threads=4)
    assert read_logs(folder, "a phone", threads=4).threads == 4
    with pytest.raises(ValueError, match=r"for 1 thread, \d+ are missing"):
        read_logs(folder, "a phone")
    with pytest.raises(
        ValueError, match="whole number, 1 or more, as `threads`"
    ):
        read_logs(folder, "a phone", threads=0)


def test_missing_logs_are_named(folder):
    logs = write_logs(folder)
    one, other = sorted(logs.glob("conv*.log"))[:2]
    one.unlink()
    other.write_text("ERROR: failed to load\n")
    with pytest.raises(ValueError, match="2 are missing or hold") as raised:
        read_logs(folder, "a phone")
    assert one.name in str(raised.value)
    assert other.name in str(raised.value)
    assert "THREADS=1 sh measure.sh" in str(raised.value)


# -- the script ------------------------------------------------------------


def test_from_files_to_a_pruned_model(folder, program, model, tmp_path):
    done, calls = run(folder, tmp_path, LOCAL=program, THREADS=2, RUNS=7)
    assert done.returncode == 0, done.stderr
    files = sorted((folder / "files").iterdir())
    assert len(calls) == len(files)
    assert f"--graph={files[0]}" in calls[0]
    assert "--num_threads=2 --num_runs=7 --warmup_runs=5" in calls[0]
    table = read_logs(folder, "fake", threads=2)
    size = (folder / "files" / "overhead.tflite").stat().st_size
    assert table.overhead == pytest.approx(size / 1e6, abs=1e-4)
    before = predict(model, table)
    masked = kprune.prune(
        model,
        reduce={"latency": 0.3},
        allocation=kprune.latency.Latency(table),
    )
    assert predict(masked, table) <= 0.7 * before
    # On this device time is size, so that the real file tells as well.
    compact = kprune.rebuild(masked)
    assert compact.count_params() < model.count_params()


def test_a_second_run_measures_what_is_missing(folder, program, tmp_path):
    broken = sorted((folder / "files").glob("conv*"))[0].stem
    done, _ = run(folder, tmp_path, LOCAL=program, BROKEN=broken)
    assert done.returncode == 1
    assert "1 failed" in done.stdout
    failed = folder / "logs" / "threads-1" / f"{broken}.failed"
    assert "cannot run this" in failed.read_text()
    with pytest.raises(ValueError, match=f"1 are missing.*{broken}.log"):
        read_logs(folder, "fake")
    done, calls = run(folder, tmp_path, LOCAL=program)
    assert done.returncode == 0
    assert len(calls) == 1 and f"{broken}.tflite" in calls[0]
    assert not failed.exists()
    assert read_logs(folder, "fake").size
    assert run(folder, tmp_path, LOCAL=program)[1] == []


def test_a_phone_through_adb(folder, program, tmp_path):
    adb = script(tmp_path / "adb", ADB)
    phone = tmp_path / "phone"
    (phone / "data").mkdir(parents=True)
    done, calls = run(
        folder,
        tmp_path,
        BENCHMARK=program,
        ADB=adb,
        PHONE=phone,
        REMOTE="/data/k",
    )
    assert done.returncode == 0, done.stderr
    assert len(calls) == len(list((folder / "files").iterdir()))
    assert str(phone) in calls[0]
    device = folder / "logs" / "threads-1" / "device.txt"
    assert device.read_text() == "Fake 9\n"
    assert read_logs(folder, "Fake 9").size
    done, calls = run(folder, tmp_path, LOCAL=program)
    assert done.returncode == 1 and not calls
    assert "has logs of 'Fake 9'" in done.stderr


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({}, "set BENCHMARK"),
        ({"LOCAL": "/no/such"}, "no program that can be run"),
        ({"BENCHMARK": "/no/such"}, "does not exist"),
    ],
)
def test_the_script_says_what_it_needs(folder, tmp_path, variables, text):
    done, _ = run(folder, tmp_path, **variables)
    assert done.returncode == 1
    assert text in done.stderr

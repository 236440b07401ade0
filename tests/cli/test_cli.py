from __future__ import annotations

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from cli.running import assert_fails
from cli.running import run
from keras import layers

import kprune
from kprune.__about__ import __version__
from kprune.commands.prune import parse_reduce

COMMANDS = (
    *("demo", "inspect", "prune", "export", "bench"),
    *("report", "replay", "sweep"),
)


# -- help, version, usage --------------------------------------------------


def test_version():
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout == f"kprune {__version__}\n"


def test_help_lists_every_command():
    result = run("--help")
    assert result.exit_code == 0
    for command in COMMANDS:
        assert command in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_shows_an_example(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"kprune {command}" in result.stdout.split("Example:")[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("inspect",),
        ("inspect", "a.keras", "--nonsense"),
        ("inspect", "a.keras", "--dtype", "float32"),
        ("prune", "a.keras"),
        ("prune", "a.keras", "b.keras", "--reduce", "macs"),
        ("prune", "a.keras", "b.keras", "--reduce", "macs=1.5"),
        ("prune", "a.keras", "b.keras", "--reduce", "flops=0.5"),
        ("export", "a.keras", "b.tflite", "--quantize", "int4"),
        ("export", "a.keras", "b.tflite", "--quantize", "int8"),
        ("bench", "a.tflite", "--threads", "0"),
        ("demo", "--reduce", "1"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr


@pytest.mark.parametrize(
    "text, expected",
    [("macs=0.5", {"macs": 0.5}), ("params=.25", {"params": 0.25})],
)
def test_reduce(text, expected):
    assert parse_reduce(text) == expected
    both = parse_reduce(text, "ram=0.4")
    assert both == {**expected, "ram": 0.4}


# -- inspect ---------------------------------------------------------------


def test_inspect_prints_coverage_first(saved):
    result = run("inspect", saved)
    assert result.exit_code == 0
    assert result.stdout.startswith(
        "28 of 32 channels prunable (87.50 %)\n  4 pinned"
    )
    assert "first  12 channels" in result.stdout
    assert "pinned: feeds the model output" in result.stdout


def test_inspect_json(saved, model):
    data = json.loads(run("inspect", saved, "--json").stdout)
    assert data["params"] == model.count_params()
    assert [g["name"] for g in data["groups"]] == ["first", "second", "scores"]
    assert "wrote" not in data


def test_inspect_counts_what_samples_take(model, x, tmp_path):
    masked = kprune.wrap(model)
    kprune.masking.add_dynamic_gates(masked)
    masked.save(tmp_path / "dynamic.keras")
    np.savez(tmp_path / "x.npz", x=x)
    given = ("inspect", tmp_path / "dynamic.keras")
    assert "kprune.dynamic_cost" in run(*given).stdout
    given = (*given, "--data", tmp_path / "x.npz")
    found = json.loads(run(*given, "--json").stdout)["dynamic"]
    macs = kprune.dynamic_cost(masked, x).macs
    assert found == {"samples": len(x), "macs": macs}
    assert "the mean of 24 samples" in run(*given).stdout


def test_inspect_says_what_it_drew(saved, tmp_path):
    drawing = tmp_path / "model.svg"
    given = ("inspect", saved, "--graph", drawing)
    assert run(*given).stdout.endswith(f"\n\nwrote {drawing}\n")
    assert json.loads(run(*given, "--json").stdout)["wrote"] == str(drawing)
    assert drawing.read_text().startswith("<svg")


def test_inspect_says_what_drawing_needs_before_it_loads(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    path = tmp_path / "damaged.keras"
    path.write_text("no model")
    result = run("inspect", path, "--graph", tmp_path / "groups.html")
    assert_fails(result, 'A drawing needs jinja2: pip install "kprune[report]"')


# -- prune -----------------------------------------------------------------


def test_prune_writes_the_compact_model(saved, tmp_path, model):
    out = tmp_path / "small.keras"
    result = run(
        "prune", saved, out, "--reduce", "macs=0.4", "--criterion", "l2"
    )
    assert result.exit_code == 0, result.output
    compact = keras.saving.load_model(out)
    before, after = kprune.cost(model), kprune.cost(compact)
    assert 0.4 <= 1 - after.macs / before.macs < 0.55
    expected = kprune.rebuild(kprune.prune(model, "l2", {"macs": 0.4}))
    for one, other in zip(compact.weights, expected.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    assert "original" in result.stdout and "small.keras" in result.stdout
    assert f"wrote {out}" in result.stdout.replace("\n", "")


def test_prune_with_data_and_uniform_allocation(saved, tmp_path, x, model):
    np.savez(tmp_path / "data.npz", x=x, y=np.zeros(24, "int32"))
    out = tmp_path / "small.keras"
    result = run(
        "prune",
        saved,
        out,
        *("--reduce", "params=0.5", "--criterion", "activation"),
        *("--allocation", "uniform", "--data", tmp_path / "data.npz"),
    )
    assert result.exit_code == 0, result.output
    compact = keras.saving.load_model(out)
    assert 0.5 <= 1 - compact.count_params() / model.count_params() < 0.65


def test_prune_to_tflite(saved, tmp_path):
    out = tmp_path / "small.tflite"
    assert run("prune", saved, out).exit_code == 0
    assert out.read_bytes()[4:8] == b"TFL3"


@pytest.mark.parametrize(
    ("option", "wrong", "meant"),
    [
        ("--criterion", "tylor", "taylor"),
        ("--allocation", "globl", "global"),
        ("--recover", "bais", "bias"),
        ("--method", "hsg", "hgs"),
    ],
)
def test_prune_with_an_unknown_name_is_a_wrong_option(
    saved, tmp_path, option, wrong, meant
):
    out = tmp_path / "small.keras"
    result = run("prune", saved, out, option, wrong)
    assert result.exit_code == 2
    told = " ".join(result.stderr.replace("│", "").split())
    assert f"'{option}': received '{wrong}'. Did you mean '{meant}'" in told
    assert not out.exists()


def test_a_criterion_that_lacks_data(saved, tmp_path):
    result = run(
        "prune", saved, tmp_path / "o.keras", "--criterion", "activation"
    )
    assert result.exit_code == 2 and "'activation' runs" in result.stderr


# -- failures --------------------------------------------------------------


def test_a_missing_model():
    assert_fails(run("inspect", "absent.keras"), "'absent.keras'")
    assert_fails(run("bench", "absent.tflite"), "'absent.tflite'")


def test_a_file_that_is_no_model(tmp_path):
    path = tmp_path / "model.keras"
    path.write_text("hello")
    assert_fails(run("inspect", path), "not a Keras model file")


def test_debug_prints_the_traceback():
    result = run("inspect", "absent.keras", "--debug")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr and "FileNotFoundError" in result.stderr


def test_python_code_in_a_model_is_not_run(tmp_path):
    path = tmp_path / "lambda.keras"
    keras.Sequential([keras.Input((4,)), layers.Lambda(lambda x: x * 2)]).save(
        path
    )
    assert_fails(run("inspect", path), "Lambda", "safe_mode=False")


def test_a_custom_layer_is_named(tmp_path):
    class Strange(layers.Layer):
        def call(self, x):
            return x

    path = tmp_path / "custom.keras"
    keras.Sequential([keras.Input((4,)), Strange()]).save(path)
    assert_fails(run("inspect", path), "'Strange'", "Python script")


def test_a_custom_loss_does_not_stand_in_the_way(model, tmp_path):
    def strange_loss(y_true, y_pred):
        return keras.ops.mean(y_pred - y_true)

    model.compile("sgd", strange_loss)
    path = tmp_path / "model.keras"
    model.save(path)
    assert run("inspect", path).exit_code == 0


@pytest.mark.parametrize(
    "name, content", [("data.npz", "z"), ("data.npy", "pickled")]
)
def test_data_that_do_not_fit(saved, tmp_path, name, content):
    path = tmp_path / name
    if content == "z":
        np.savez(path, z=np.zeros(3))
    else:
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    result = run("prune", saved, tmp_path / "out.keras", "--data", path)
    assert_fails(result, name, "np.savez")


def test_an_unwritable_target(saved, tmp_path):
    result = run("export", saved, tmp_path / "no" / "model.tflite")
    assert_fails(result, "folder")


def python(code: str, **modules: str) -> subprocess.CompletedProcess:
    """Runs code as the `kprune` command would, with made-up modules."""
    stubs = modules
    lines = ["import sys, types", "sys.argv[0] = 'kprune'"]
    for name, body in stubs.items():
        lines.append(
            f"sys.modules[{name!r}] = module = types.ModuleType({name!r})"
        )
        lines.append(f"exec({body!r}, vars(module))")
    return subprocess.run(
        [sys.executable, "-c", "\n".join([*lines, code])],
        capture_output=True,
        text=True,
        check=True,
    )


def test_the_command_line_module_needs_no_keras():
    """`kprune --help` is fast only if nothing heavy is imported for it."""
    heavy = python(
        "import kprune.cli\n"
        "print(sorted({'keras', 'tensorflow', 'sklearn'} & set(sys.modules)))"
    )
    assert heavy.stdout == "[]\n"


def test_start_holds_back_what_keras_prints(tmp_path):
    noise = "import os\nos.write(2, b'noise\\n')\n"
    (tmp_path / "keras.py").write_text(
        noise
        + "class ops:\n    zeros = staticmethod(lambda n: os.write(2, b'more'))\n"
        "class saving:\n    get_custom_objects = staticmethod(dict)"
    )
    code = (
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "from kprune.commands.start import start_keras\n"
        "start_keras()\n"
        "import keras; print(keras.ops)\n"
        "import logging; tensorflow = logging.getLogger('tensorflow')\n"
        "tensorflow.warning('%s triggered tf.function retracing.', 'f')\n"
        "tensorflow.warning('after')"
    )
    result = python(code)
    assert result.stderr == "after\n"
    assert "keras.ops" in result.stdout


def test_start_gives_standard_error_back_after_a_failure(tmp_path):
    (tmp_path / "keras.py").write_text("raise ImportError('no backend')")
    code = (
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "from kprune.commands.start import start_keras\n"
        "try:\n    start_keras()\n"
        "except ImportError as error:\n    print(error, file=sys.stderr)"
    )
    assert python(code).stderr == "no backend\n"


@pytest.mark.slow
def test_a_reader_that_stops_early_is_no_error(saved):
    code = "from kprune.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "inspect", saved, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdout.close()
        errors = process.stderr.read()
    assert "kprune: error" not in errors and "Broken pipe" not in errors


def test_the_installed_script(saved):
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            "from kprune.cli import main; main()",
            "inspect",
            saved,
        ],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("28 of 32 channels prunable")


def test_a_run_of_the_command_is_recorded_and_replayed(
    saved, x, tmp_path, monkeypatch
):
    np.save(tmp_path / "x.npy", x)
    given = [saved, tmp_path / "a.keras", "--data", tmp_path / "x.npy"]
    given += ["--run-dir", tmp_path / "runs"]
    words = ["/usr/bin/kprune", "prune", *map(str, given)]
    monkeypatch.setattr("sys.argv", words)
    assert run("prune", *given).exit_code == 0
    record = json.loads((tmp_path / "runs/latest/run.json").read_text())
    assert record["asked"]["repeat"] == " ".join(["kprune", *words[1:]])
    again = [tmp_path / "runs", saved, tmp_path / "b.keras", *given[2:4]]
    result = run("replay", *again[:3])
    assert result.exit_code == 2 and "'reconstruct' runs" in result.stderr
    result = run("replay", *again)
    assert result.exit_code == 0, result.output
    models = [keras.models.load_model(tmp_path / f"{n}.keras") for n in "ab"]
    for ours, theirs in zip(*(m.get_weights() for m in models), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)
    shown = run("inspect", saved, "--run", tmp_path / "runs", "--json").stdout
    left = {g["name"]: g["kept"] for g in json.loads(shown)["groups"]}
    assert left == {
        g["name"]: g["size"] - len(g["removed"]) for g in record["groups"]
    }

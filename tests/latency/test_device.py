"""The names of devices, by which tables are kept apart."""

import importlib.metadata
import platform
from unittest import mock

import pytest

from kprune.latency import device
from kprune.latency import runtimes

INTEL = "processor : 0\nmodel name : Intel Core i5\n" * 2
PI = "CPU implementer : 0x41\nCPU part : 0xd08\nHardware : BCM2835\n"
CORES = "CPU implementer : 0x41\nCPU part : 0xd05\n"
CORES += "CPU implementer : 0x41\nCPU part : 0xd0a\n"


@pytest.mark.parametrize(
    ("cpus", "board", "expected"),
    [
        (INTEL, None, "Intel Core i5"),
        (PI, "Raspberry Pi 4 Model B\0", "Raspberry Pi 4 Model B"),
        (PI, None, "BCM2835"),
        (CORES, "linux,dummy-virt\0", "CPU implementer 0x41 part 0xd05+0xd0a"),
        ("", None, "unknown processor"),
    ],
)
def test_processors(monkeypatch, tmp_path, cpus, board, expected):
    (tmp_path / "cpuinfo").write_text(cpus)
    monkeypatch.setattr(device, "_CPUS", tmp_path / "cpuinfo")
    monkeypatch.setattr(device, "_BOARD", tmp_path / "model")
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "isa")
    if board is not None:
        (tmp_path / "model").write_text(board)
    assert device.device_name() == f"{expected}, isa"


def test_apple(monkeypatch, tmp_path):
    monkeypatch.setattr(device, "_CPUS", tmp_path / "none")
    monkeypatch.setattr(device, "_BOARD", tmp_path / "none")
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    run = mock.Mock()
    run.return_value.stdout = "Apple M2\n"
    monkeypatch.setattr(device.subprocess, "run", run)
    assert device.device_name().startswith("Apple M2, ")
    assert run.call_args[0][0][-1] == "machdep.cpu.brand_string"


def test_versions_of_runtimes_count(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "7.8")
    assert runtimes.get("litert").device.endswith(", ai-edge-litert 7.8")
    assert runtimes.get("onnxruntime").device.endswith(", onnxruntime 7.8")
    one = device.table_path("litert", "int8", 1, "a CPU, ai-edge-litert 7.8")
    other = device.table_path("litert", "int8", 1, "a CPU, ai-edge-litert 7.9")
    assert one != other


def test_packages_that_are_not_installed_do_not_count():
    assert device.device_name("no-such-package") == device.device_name()

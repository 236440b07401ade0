"""The example tables: they know their network without converting it again."""

import sys
from pathlib import Path

import pytest

import kprune
from kprune.latency import Latency
from kprune.latency import load
from kprune.latency import predict

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def network():
    sys.path.append(str(EXAMPLES))
    import cifar10_resnet

    return cifar10_resnet.build_resnet(20)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_resnet20(network, dtype):
    table = load(EXAMPLES / "latency_tables" / f"resnet20-{dtype}.json")
    masked = kprune.prune(
        network, reduce={"latency": 0.4}, allocation=Latency(table)
    )
    assert predict(masked, table) <= 0.6 * predict(network, table) * (1 + 1e-9)

"""Prune ResNet-8 with Torch-Pruning. Called by `run.py` in its own environment.

Prints JSON: the predicted classes of the test images before and after training, MACs
and parameters as kprune counts them, and the CPU seconds of pruning.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from torch import nn
from torch.nn import functional

STEPS = 400
"""Steps of pruning; enough that the MACs meet the target closely."""
EPSILON = 1e-3


class Same(nn.Module):
    """A convolution that pads like Keras, with the odd extra pixel at the end."""

    def __init__(
        self, inputs: int, outputs: int, size: int, stride: int
    ) -> None:
        super().__init__()
        padding = (size - 1) // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(inputs, outputs, size, stride, padding)
        self.after = max(size - stride, 0) if stride > 1 else 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.after:
            x = functional.pad(x, (0, self.after, 0, self.after))
        return self.conv(x)


class Block(nn.Module):
    """Two convolutions with a shortcut around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = Same(inputs, outputs, 3, stride)
        self.first_norm = nn.BatchNorm2d(outputs, EPSILON)
        self.second = Same(outputs, outputs, 3, 1)
        self.second_norm = nn.BatchNorm2d(outputs, EPSILON)
        self.shortcut = Same(inputs, outputs, 1, stride) if stride > 1 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        return functional.relu(y + (self.shortcut(x) if self.shortcut else x))


class ResNet8(nn.Module):
    """The image classification network of MLPerf Tiny."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Same(3, 16, 3, 1)
        self.stem_norm = nn.BatchNorm2d(16, EPSILON)
        self.blocks = nn.ModuleList(
            [Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2)]
        )
        self.dense = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.stem_norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.dense(torch.flatten(functional.avg_pool2d(x, 8), 1))

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """Load the weights of the Keras model by the names of its variables."""
        convs = [self.stem]
        norms = [self.stem_norm]
        for block in self.blocks:
            convs += [block.first, block.second]
            norms += [block.first_norm, block.second_norm]
            if block.shortcut is not None:
                convs.append(block.shortcut)
        for n, conv in enumerate(convs):
            name = f"conv2d_{n}" if n else "conv2d"
            kernel = arrays[f"{name}/kernel"].transpose(3, 2, 0, 1)
            _set(conv.conv.weight, kernel)
            _set(conv.conv.bias, arrays[f"{name}/bias"])
        for n, norm in enumerate(norms):
            name = f"batch_normalization_{n}" if n else "batch_normalization"
            _set(norm.weight, arrays[f"{name}/gamma"])
            _set(norm.bias, arrays[f"{name}/beta"])
            _set(norm.running_mean, arrays[f"{name}/moving_mean"])
            _set(norm.running_var, arrays[f"{name}/moving_variance"])
        _set(self.dense.weight, arrays["dense/kernel"].T)
        _set(self.dense.bias, arrays["dense/bias"])


def _set(variable: torch.Tensor, value: np.ndarray) -> None:
    with torch.no_grad():
        variable.copy_(torch.from_numpy(np.ascontiguousarray(value)))


def images(x: np.ndarray) -> torch.Tensor:
    found = torch.from_numpy(x.astype("float32").transpose(0, 3, 1, 2))
    return found.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def scores(model: nn.Module, x: np.ndarray) -> np.ndarray:
    model.eval()
    parts = [model(images(x[n : n + 500])) for n in range(0, len(x), 500)]
    return torch.cat(parts).numpy()


def cost(model: nn.Module) -> tuple[int, int]:
    """Return MACs and parameters, counted as kprune counts them."""
    macs = 0

    def count(layer: Any, inputs: Any, output: torch.Tensor) -> None:
        nonlocal macs
        macs += layer.weight.numel() * math.prod(output.shape[2:])

    layers = [
        m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)
    ]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, 32, 32))
    for hook in hooks:
        hook.remove()
    params = sum(p.numel() for p in model.parameters())
    return macs, params + sum(
        2 * len(m.running_mean)
        for m in model.modules()
        if isinstance(m, nn.BatchNorm2d)
    )


IMPORTANCES = {
    "torch-magnitude": tp.importance.GroupMagnitudeImportance,
    "torch-bn-scale": tp.importance.BNScaleImportance,
    "torch-taylor": tp.importance.GroupTaylorImportance,
    "torch-random": tp.importance.RandomImportance,
}


def prune(
    model: ResNet8, way: str, target: float, x: np.ndarray, y: np.ndarray
) -> None:
    """Remove filters of all layers until the target is met."""
    example = torch.zeros(1, 3, 32, 32)
    full, _ = cost(model)
    pruner = tp.pruner.BasePruner(
        model,
        example,
        importance=IMPORTANCES[way](),
        global_pruning=True,
        pruning_ratio=1.0,
        iterative_steps=STEPS,
        ignored_layers=[model.dense],
    )
    if way == "torch-taylor":
        model.eval()
        model.zero_grad()
        functional.cross_entropy(
            model(images(x)), torch.from_numpy(y).long()
        ).backward()
    for _ in range(STEPS):
        if cost(model)[0] <= (1 - target) * full:
            return
        pruner.step()
    raise SystemExit(f"{STEPS} steps cannot remove {target:.0%} of the MACs.")


def train(
    model: nn.Module, x: np.ndarray, y: np.ndarray, rate: float, momentum: float
) -> None:
    optimizer = torch.optim.SGD(
        model.parameters(), rate, momentum=momentum, nesterov=True
    )
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 0.1  # 0.9 in Keras' convention
    model.train()
    for step, (batch, labels) in enumerate(zip(x, y, strict=True)):
        for group in optimizer.param_groups:
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / len(x)))
        optimizer.zero_grad()
        loss = functional.cross_entropy(
            model(images(batch)), torch.from_numpy(labels).long()
        )
        loss.backward()
        optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--way", choices=IMPORTANCES, required=True)
    add("--target", type=float, required=True)
    add("--seed", type=int, required=True)
    add("--folder", type=Path, required=True)
    add("--batches", type=Path, required=True)
    add("--learning-rate", type=float, required=True)
    add("--momentum", type=float, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    model = ResNet8()
    with np.load(options.folder / "network.npz") as arrays:
        model.load(dict(arrays))
    with np.load(options.folder / "test.npz") as arrays:
        x_test, expected = arrays["x"], arrays["scores"]
    found = scores(model, x_test[: len(expected)])
    difference = float(np.abs(found - expected).max())
    if difference > 1e-3 * np.abs(expected).max():
        raise SystemExit(
            f"The outputs differ from those of the Keras model by {difference}."
        )
    with np.load(options.batches) as arrays:
        x, y = arrays["x"], arrays["y"]
        samples = arrays["calibration_x"], arrays["calibration_y"]
    full_macs, _ = cost(model)
    start = time.process_time()
    prune(model, options.way, options.target, *samples)
    seconds = time.process_time() - start
    macs, params = cost(model)
    pruned = scores(model, x_test).argmax(1)
    train(model, x, y, options.learning_rate, options.momentum)
    final = scores(model, x_test).argmax(1)
    print(
        json.dumps(
            {
                "pruned": pruned.tolist(),
                "final": final.tolist(),
                "full_macs": full_macs,
                "macs": macs,
                "params": params,
                "cpu_seconds": round(seconds, 2),
                "versions": {
                    "torch": torch.__version__,
                    "torch_pruning": tp.__version__,
                },
            }
        )
    )


if __name__ == "__main__":
    main()

"""EinsumDense: a kernel with any number of input and output axes."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers

from kprune.graph.call import FILTER
from kprune.graph.call import INPUT
from kprune.graph.call import SCALE
from kprune.graph.call import Axis
from kprune.graph.call import Call
from kprune.graph.kept import Kept
from kprune.graph.labels import Labels
from kprune.graph.labels import on_axis
from kprune.graph.record import Visit
from kprune.graph.registry import Rule
from kprune.graph.registry import register_rule
from kprune.graph.rules.contraction import Spec
from kprune.graph.rules.contraction import arrays
from kprune.graph.rules.contraction import parse
from kprune.graph.rules.contraction import repeats
from kprune.graph.rules.contraction import untangle


@register_rule(layers.EinsumDense)
class EinsumDenseRule(Rule):
    def trace(self, call: Call) -> Labels:
        layer, x = call.layer, call.input
        specs, output = parse(
            layer.equation, [x.rank, len(layer._kernel.shape)]
        )
        given, kernel = specs
        if repeats([*specs, output]):
            return self._diagonal(call, given, kernel, output)
        read = [t for t in kernel if t not in output and t in given]
        x = untangle(call, x, [given.index(t) for t in read])
        labels = {t: arrays(x, a) for a, t in enumerate(given)}
        self._bind_kernel(call, given, kernel, output, labels)
        self._bind_bias(call, given, output, labels)
        if not x.zero:
            for name in set(given) - set(kernel) - set(output):
                why = f"{call!r} sums channels that are not 0 once masked"
                call.pin(labels[name], why)
        self._count(call, x, given, kernel, labels)
        shape = call.output_shape
        for name in [
            t for t, n in zip(output, shape, strict=True) if n is None
        ]:
            why = f"an axis of unknown size in the output of {call!r}"
            call.pin(labels.pop(name, []), why)
        factors = [
            on_axis(a, axis, len(shape))
            for axis, name in enumerate(output)
            for a in labels.get(name, [])
        ]
        bias = _bias_names(layer, output)
        zero = all(
            (t in kernel or x.zero) and (layer.bias is None or t in bias)
            for t in output
            if labels.get(t)
        )
        out = Labels(shape, tuple(factors), zero, x.why)
        return call.activate(out, layer.activation)

    @staticmethod
    def _bind_kernel(
        call: Call,
        given: Spec,
        kernel: Spec,
        output: Spec,
        labels: dict[str, list[np.ndarray]],
    ) -> None:
        variable = call.layer._kernel
        axes = {}
        for axis, name in enumerate(kernel):
            if name not in given:
                if variable.shape[axis] > 1:
                    labels[name] = [call.filters(variable, axis)]
                    axes[axis] = Axis(labels[name], FILTER)
            elif name in output:
                axes[axis] = Axis(labels[name], SCALE)
            else:
                axes[axis] = Axis(labels[name], INPUT, given.index(name))
        call.bind(variable, axes)

    @staticmethod
    def _bind_bias(
        call: Call,
        given: Spec,
        output: Spec,
        labels: dict[str, list[np.ndarray]],
    ) -> None:
        bias = call.layer.bias
        if bias is None:
            return
        axes = {}
        start = len(output) - len(bias.shape)
        for axis, size in enumerate(bias.shape):
            name = output[start + axis]
            if size > 1 and labels.get(name):
                role = SCALE if name in given else FILTER
                axes[axis] = Axis(labels[name], role)
        call.bind(bias, axes)

    @staticmethod
    def _count(
        call: Call,
        x: Labels,
        given: Spec,
        kernel: Spec,
        labels: dict[str, list[np.ndarray]],
    ) -> None:
        outside = [a for a, t in enumerate(given) if a and t not in kernel]
        free = [x.shape[a] for a in outside if not labels[given[a]]]
        extra = [labels[given[a]] for a in outside if labels[given[a]]]
        call.work(call.layer._kernel, free, extra)

    def _diagonal(
        self, call: Call, given: Spec, kernel: Spec, output: Spec
    ) -> Labels:
        """Count the work of a layer whose channels all stay, and say why."""
        why = f"{call!r} is not a plain sum of products"
        labels: dict[str, list[np.ndarray]] = {t: [] for t in given}
        self._bind_kernel(call, given, kernel, output, labels)
        for slots in labels.values():
            call.pin(slots, why)
        sizes = [*call.input.shape[1:], *call.layer._kernel.shape]
        names = [*given[1:], *kernel]
        call.work(None, list(dict(zip(names, sizes, strict=True)).values()))
        return call.pin_all(why)[0]

    def config(self, visit: Visit, kept: Kept) -> dict[str, Any]:
        layer = visit.operation
        config = layer.get_config()
        old = layer.partial_output_shape
        new = kept.shape(visit.outputs[0])
        start = 1
        if layer.equation.startswith("..."):
            start = len(new) - len(old)
        sizes = [
            None if n is None else new[start + i] for i, n in enumerate(old)
        ]
        config["output_shape"] = tuple(sizes)
        return config


def _bias_names(layer: Any, output: Spec) -> Spec:
    if layer.bias is None:
        return ()
    sizes = layer.bias.shape
    tail = output[len(output) - len(sizes) :]
    return tuple(t for t, n in zip(tail, sizes, strict=True) if n > 1)

"""Regression of replaced channels on their donors, from the inputs of consumers."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import keras
import numpy as np
from keras import ops

from kprune.data.source import as_source
from kprune.graph import walk
from kprune.graph.channel_graph import ChannelGraph
from kprune.graph.channel_graph import Member
from kprune.graph.registry import is_batch_norm
from kprune.graph.registry import is_linear
from kprune.graph.values import read
from kprune.masking import filter_masks
from kprune.rebuild.copies import CopyMap

logger = logging.getLogger("kprune")

Maps = dict[str, CopyMap]

# `id(variable)` -> value to add.
Shifts = dict[int, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Fit:
    """Approximation `slope * donor + constant` of the channels one consumer reads.

    Args:
        slopes: Slopes of shape `(size,)`; 0 for channels that are not replaced.
        constants: Constants of shape `(size, m)`, one per position of a channel.
    """

    slopes: np.ndarray
    constants: np.ndarray


class Fits:
    """Fits by group name and consumer."""

    def __init__(self) -> None:
        self._fits: dict[tuple[str, int, int], Fit] = {}

    def add(self, name: str, member: Member, fit: Fit) -> None:
        self._fits[name, id(member.variable), member.axis] = fit

    def of(self, name: str, member: Member) -> Fit | None:
        """Return the fit, or None if the consumer's input was not observed."""
        return self._fits.get((name, id(member.variable), member.axis))

    def slopes(self, name: str, member: Member) -> np.ndarray:
        """Return slopes of shape `(size,)`, 0 without a fit."""
        fit = self.of(name, member)
        size = member.index.shape[0]
        return np.zeros(size) if fit is None else fit.slopes


def _source(maps: Maps, members: list[tuple[str, Member]], size: int) -> Any:
    """Return the position of the donor for every position of an axis."""
    source = np.arange(size)
    for name, member in members:
        source[member.index] = member.index[maps[name].donors]
    return source


def regress(
    masked: keras.Model,
    graph: ChannelGraph,
    maps: Maps,
    data: Any,
    steps: int | None = None,
) -> Fits:
    """Fit replaced channels by their donors, at the inputs of their consumers.

    Args:
        masked: The masked model, not changed yet.
        graph: `kprune.trace(masked)`.
        maps: Copy maps by group name.
        data: A `Source` of samples.
        steps: Number of batches to use; None for all.
    """
    members: dict[tuple[int, int], list[tuple[str, Member]]] = {}
    for name in maps:
        for member in graph[name].consumers:
            if member.feature_axis is not None and is_linear(member.layer):
                at = (id(member.layer), member.feature_axis)
                members.setdefault(at, []).append((name, member))
    moments = {}
    for at, readers in members.items():
        member = readers[0][1]
        size = member.variable.shape[member.axis]
        moments[at] = _Moments(_source(maps, readers, size), at[1])
    _observe(masked, moments, data, steps)
    fits = Fits()
    for at, readers in members.items():
        for name, member in readers:
            fit = moments[at].fit(member, maps[name])
            if fit is not None:
                fits.add(name, member, fit)
    return fits


def _observe(
    masked: keras.Model,
    moments: dict[tuple[int, int], _Moments],
    data: Any,
    steps: int | None,
) -> None:
    layers_seen = {layer for layer, _ in moments}
    wrappers = [w for w in filter_masks(masked) if id(w.layer) in layers_seen]
    try:
        for wrapper in wrappers:
            mine = [
                m
                for (layer, _), m in moments.items()
                if layer == id(wrapper.layer)
            ]
            wrapper.observer = _Observer(mine)
        for x, _, _ in as_source(data, masked).batches(steps):
            masked(x, training=False)
    finally:
        for wrapper in wrappers:
            wrapper.observer = None


class _Observer:
    def __init__(self, moments: list[_Moments]) -> None:
        self._moments = moments

    def __call__(self, inputs: Any) -> None:
        for moments in self._moments:
            moments.add(keras.tree.flatten(inputs)[0])


class _Moments:
    """Means, squares and products with donors of one layer's input."""

    def __init__(self, source: np.ndarray, axis: int) -> None:
        self._source = source
        self._axis = axis
        self._sums = np.zeros((3, source.size))
        self._count = 0
        self._fits = True

    def add(self, x: Any) -> None:
        # A grouped convolution's kernel is narrower than its input.
        self._fits = self._fits and x.shape[self._axis] == self._source.size
        if not self._fits:
            return
        values = ops.convert_to_numpy(ops.cast(x, "float32"))
        rows = np.moveaxis(values, self._axis, -1)
        rows = rows.reshape(-1, self._source.size)
        donors = rows[:, self._source]
        totals = [
            rows.sum(axis=0, dtype="float64"),
            np.einsum("ij,ij->j", rows, rows, dtype="float64"),
            np.einsum("ij,ij->j", rows, donors, dtype="float64"),
        ]
        self._sums += np.stack(totals)
        self._count += rows.shape[0]

    def fit(self, member: Member, known: CopyMap) -> Fit | None:
        if not self._fits or not self._count:
            return None
        mean, square, product = self._sums / self._count
        index, donors = member.index, member.index[known.donors]
        # One slope for all positions of a channel, each with its own mean.
        covariance = (product[index] - mean[index] * mean[donors]).sum(axis=1)
        variance = (square[donors] - mean[donors] ** 2).sum(axis=1)
        # The computed variance of a constant channel is rounding error.
        noise = 1e-6 * square[donors].sum(axis=1)
        slopes = np.where(
            known.replaced & (variance > noise),
            covariance / np.where(variance > noise, variance, 1.0),
            0.0,
        )
        constants = mean[index] - slopes[:, None] * mean[donors]
        return Fit(slopes, constants * known.replaced[:, None])


def constants(
    masked: keras.Model, graph: ChannelGraph, maps: Maps, fits: Fits
) -> Shifts:
    """Return the changes of biases and moving means from the constants of all fits.

    Args:
        masked: The masked model, not changed yet.
        graph: `kprune.trace(masked)`.
        maps: Copy maps by group name.
        fits: The result of `regress`.
    """
    shifts: Shifts = {}
    for name in maps:
        for member in graph[name].consumers:
            fit = fits.of(name, member)
            if fit is None:
                continue
            rows = np.moveaxis(read(member.variable), member.axis, 0)
            rows = rows[member.index].astype("float64")
            added = np.tensordot(fit.constants, rows, axes=2)
            # The remaining axes are those of the kernel, with the outputs last.
            added = added.reshape(-1, added.shape[-1]).sum(axis=0)
            _add(shifts, masked, graph, member, added)
    return shifts


def _add(
    shifts: Shifts,
    masked: keras.Model,
    graph: ChannelGraph,
    member: Member,
    added: np.ndarray,
) -> None:
    bias = getattr(member.layer, "bias", None)
    if bias is not None:
        targets = [(bias, 1.0)]
    else:
        norms = _norms_behind(masked, member.layer)
        targets = [(norm.moving_mean, -1.0) for norm in norms]
    if not targets:
        logger.info(
            "Layer '%s' has no bias, and no BatchNormalization follows it: the "
            "mean of its lost inputs is not compensated.",
            member.layer.name,
        )
    for variable, sign in targets:
        before = shifts.get(id(variable), 0.0)
        shifts[id(variable)] = before + sign * added


def _norms_behind(masked: keras.Model, layer: Any) -> list[Any]:
    """Return the batch normalisations that read a layer, if only such layers do."""
    found: list[Any] = []
    for node in _nodes(masked):
        for tensor in walk.tensors_of(
            node.arguments.args, node.arguments.kwargs
        ):
            history = tensor._keras_history
            if walk.unwrap(history.operation) is layer:
                found.append(walk.unwrap(node.operation))
    if all(is_batch_norm(f) for f in found):
        return list({id(f): f for f in found}.values())
    return []


def _nodes(model: Any) -> Any:
    for node in walk.nodes(walk.require_functional(model)):
        inner = walk.functional_of(node.operation)
        yield node
        if inner is not None:
            yield from _nodes(inner)

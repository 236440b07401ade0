"""add_gates(), gates(), close_gates(): the gates of a masked model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kprune.arguments import whole
from kprune.graph import walk
from kprune.graph.call import Visit
from kprune.graph.channel_graph import ChannelGraph
from kprune.graph.group import Group
from kprune.graph.group import Member
from kprune.graph.tracer import trace
from kprune.graph.values import read
from kprune.masking.compilation import exclude_from_decay
from kprune.masking.compilation import recompile
from kprune.masking.devices import placed_like
from kprune.masking.dynamic import DynamicGate
from kprune.masking.dynamic import GateSource
from kprune.masking.filter_mask import FilterMask
from kprune.masking.gate import APART
from kprune.masking.gate import Gate
from kprune.masking.gate import GatedInput
from kprune.masking.gate import GroupGate
from kprune.masking.gate import TiedLayer
from kprune.masking.removal import zero_removed
from kprune.masking.slots import shifting_copies
from kprune.masking.wrapping import filter_masks
from kprune.masking.wrapping import masks
from kprune.masking.wrapping import require_masked
from kprune.masking.wrapping import set_masks
from kprune.masking.wrapping import wrappers_by_layer

Readers = list[tuple[FilterMask, dict[str, Any]]]
"""Pairs of a wrapper whose layer reads a group, and `GatedInput` arguments."""


def add_gates(
    masked: keras.Model,
    start: float = 2.0,
    seed: int = 0,
    decoders: Iterable[str] = (),
    graph: ChannelGraph | None = None,
) -> dict[str, Gate]:
    """Add a trainable, differentiable gate to every group of channels.

    The gate multiplies the channels where layers read them, after normalisation
    and activation. All layers that read a group share its gate, so a residual
    stream has one. A compiled model is compiled again: its optimizer continues
    with its slots and excludes the gates from weight decay. If you compile the
    model later, call `protect_gates`.

    A group gets no gate, and keeps all channels, if a layer computes across its
    channels (layer normalisation) or reads them other than on a single axis of
    its input (attention heads).

    Args:
        masked: A model made by `kprune.wrap`. It is changed in place.
        start: See `kprune.masking.Gate`.
        seed: Seed of the noise.
        decoders: Names of the groups whose gates get a `decoder`.
        graph: `kprune.trace(masked)`, if you have it already.

    Returns:
        Group name -> `kprune.masking.Gate`.

    Raises:
        ValueError: If the model is not wrapped, has gates already, or no group
            can have one.

    Example:

    ```python
    masked = kprune.wrap(model)
    kprune.masking.add_gates(masked)
    masked.fit(train)                       # with a penalty on open gates
    kprune.masking.close_gates(masked)
    compact = kprune.rebuild(masked)
    ```
    """
    require_masked(masked, "add_gates()")
    graph = graph or trace(masked)
    readers = gated_readers(masked, graph)
    wanted = set(decoders)
    made = {
        name: Gate(
            graph[name].size,
            name,
            start,
            seed + APART * number,
            name in wanted,
        )
        for number, name in enumerate(readers)
    }
    attach_gates(masked, made, readers)
    return made


def add_dynamic_gates(
    masked: keras.Model,
    reduction: int = 2,
    graph: ChannelGraph | None = None,
) -> dict[str, DynamicGate]:
    """Add gates that depend on the sample to every group of channels.

    A branch predicts them from the input of the first layer that produces the
    group. Everything else is as in `add_gates`. Parts of such a model cannot run
    alone.

    Args:
        masked: A model made by `kprune.wrap`. It is changed in place.
        reduction: Number of channels per hidden unit of a group's branch. Groups
            with fewer than 80 channels have as many units as channels.
        graph: `kprune.trace(masked)`, if you have it already.

    Returns:
        Group name -> `kprune.masking.DynamicGate`.

    Raises:
        ValueError: See `add_gates`.
    """
    require_masked(masked, "add_dynamic_gates()")
    whole(reduction, "add_dynamic_gates()", "reduction")
    graph = graph or trace(masked)
    wrappers = wrappers_by_layer(masked)
    readers, made, sources, missing = {}, {}, [], []
    for name, read_by in gated_readers(masked, graph).items():
        group = graph[name]
        found = _first_writer(group, graph, wrappers, read_by)
        if isinstance(found, str):
            missing.append(found)
            continue
        wrapper, inputs = found
        few = group.size < _FEW
        hidden = group.size if few else max(1, group.size // reduction)
        reads = sum(arguments["calls"] for _, arguments in read_by)
        gate = DynamicGate(group.size, name, inputs, hidden, reads)
        readers[name], made[name] = read_by, gate
        sources.append((wrapper, gate))
    attach_gates(masked, made, readers, sources, missing)
    return made


_FEW = 80


def _first_writer(
    group: Group,
    graph: ChannelGraph,
    wrappers: Mapping[int, FilterMask],
    readers: Readers,
) -> tuple[FilterMask, int] | str:
    """Return the first producer of a group and its number of input channels.

    Returns:
        The producer's wrapper and the number of input channels. If the producer
        has no single channels-last input of known width or is called more than
        once, or a reader of the group comes first, a clause that says so.
    """
    writers = {id(m.layer) for m in group.producers}
    reading = {id(wrapper.layer) for wrapper, _ in readers}
    calls = Counter(
        id(walk.unwrap(visit.operation)) for visit in graph.visits.values()
    )
    for visit in graph.visits.values():
        layer = walk.unwrap(visit.operation)
        if id(layer) in reading:
            return f"layer '{layer.name}' reads its channels before any writes them"
        if id(layer) not in writers:
            continue
        who = f"layer '{layer.name}', which writes its channels,"
        if getattr(layer, "data_format", None) == "channels_first":
            return f"{who} has data_format='channels_first'"
        if len(visit.inputs) != 1:
            return f"{who} has {len(visit.inputs)} inputs"
        if calls[id(layer)] > 1:
            # A gate holds the saliencies of one input.
            return f"{who} is called {calls[id(layer)]} times"
        width = visit.inputs[0].shape[-1]
        if width is None or id(layer) not in wrappers:
            return f"{who} has an input of unknown width, or no mask"
        return wrappers[id(layer)], width
    return "no layer writes its channels"


def gated_readers(
    masked: keras.Model, graph: ChannelGraph
) -> dict[str, Readers]:
    """Return the readers of each group that can have a gate.

    Args:
        masked: A model made by `kprune.wrap`.
        graph: `kprune.trace(masked)`.

    Returns:
        Group name -> pairs of a wrapper and arguments of its `GatedInput`.
    """
    wrappers = wrappers_by_layer(masked)
    visits: dict[int, list[Visit]] = {}
    for visit in graph.visits.values():
        visits.setdefault(id(walk.unwrap(visit.operation)), []).append(visit)
    across = {
        group.name
        for entry in graph.mask_inputs
        for group in graph.groups_on(entry.labels)
    }
    found = {}
    for group in graph.prunable:
        readers = {
            id(m.layer): _reader(m, graph, wrappers, visits)
            for m in group.consumers
        }
        read_well = [r for r in readers.values() if r is not None]
        if readers and len(read_well) == len(readers):
            if group.name not in across:
                found[group.name] = read_well
    return found


def _reader(
    member: Member,
    graph: ChannelGraph,
    wrappers: Mapping[int, FilterMask],
    visits: Mapping[int, list[Visit]],
) -> tuple[FilterMask, dict[str, Any]] | None:
    """Return how a layer reads a group, or None if not on one axis of one input."""
    calls = visits.get(id(member.layer), [])
    wrapper = wrappers.get(id(member.layer))
    labels = graph.bindings[id(member.variable)].axes[member.axis].labels
    length = member.variable.shape[member.axis]
    if wrapper is None or member.feature_axis is None or len(labels) != 1:
        return None
    for visit in calls:
        if len(visit.inputs) != 1:
            return None
        shape = visit.inputs[0].shape
        axis = member.feature_axis % len(shape)
        if shape[axis] != length:
            return None
    if not calls:
        return None
    index = np.full(length, -1)
    mask = [id(w) for w in member.layer.weights].index(id(member.variable))
    index[member.index] = np.arange(len(member.index))[:, None]
    return wrapper, {
        "index": index.tolist(),
        "axis": axis,
        "rank": len(shape),
        "calls": len(calls),
        "mask": [mask, member.axis],
    }


def attach_gates(
    masked: keras.Model,
    made: Mapping[str, GroupGate],
    readers: Mapping[str, Readers],
    sources: Iterable[tuple[FilterMask, DynamicGate]] = (),
    missing: Sequence[str] = (),
) -> None:
    """Attach gates to the readers of their groups, and compile the model again.

    Args:
        masked: A model made by `kprune.wrap`.
        made: Group name -> gate.
        readers: See `gated_readers`.
        sources: Pairs of a wrapper and the dynamic gate that reads its input.
        missing: Clauses that say why groups have no gate, for the message.

    Raises:
        ValueError: If the model has gates already, or there is none to attach.
    """
    if gates(masked):
        raise ValueError(
            f"Model '{masked.name}' has gates already. Use "
            "kprune.masking.gates(masked), or wrap the original model again."
        )
    if not made:
        across = (
            "for each, some layer computes across the channels, or reads them other "
            "than on a single axis of its input"
        )
        raise ValueError(
            f"No group of model '{masked.name}' can have a gate: "
            f"{'; '.join(dict.fromkeys(missing)) or across}. Prune with a criterion "
            "instead."
        )
    known = list(masked.variables)
    with placed_like(masked):
        for name, gate in made.items():
            for wrapper, arguments in readers[name]:
                dtype = wrapper.dtype_policy
                reader = GatedInput(gate, dtype=dtype, **arguments)
                extend(wrapper, reader)
        # After the gates of the groups that these layers read themselves.
        for wrapper, dynamic in sources:
            extend(wrapper, GateSource(dynamic, dtype=wrapper.dtype_policy))
    for layer in [masked, *masked._flatten_layers()]:
        if hasattr(layer, "_torch_params"):
            # Otherwise PyTorch would not reset the gradients of new variables.
            layer._track_variables()
    recompile(masked, known)
    protect_gates(masked)


def extend(wrapper: FilterMask, layer: TiedLayer) -> None:
    """Append a layer to those that the inputs of a built wrapper pass through."""
    wrapper._tracker.unlock()
    wrapper.gates = [*wrapper.gates, layer]
    wrapper._tracker.lock()


def gates(masked: keras.Model) -> dict[str, GroupGate]:
    """Return the gates of a model.

    Args:
        masked: A model made by `kprune.wrap`.

    Returns:
        Group name -> gate; empty if there are none.
    """
    return {
        reader.tied.gate.group: reader.tied.gate
        for wrapper in filter_masks(masked)
        for reader in wrapper.gates
    }


def protect_gates(
    masked: keras.Model, optimizer: keras.Optimizer | None = None
) -> None:
    """Exclude the gates from weight decay.

    Weight decay would pull all gates towards half open. kprune's callbacks call
    this when training begins.

    Args:
        masked: A model with gates.
        optimizer: Defaults to `masked.optimizer`.
    """
    optimizer = optimizer or getattr(masked, "optimizer", None)
    learned = [v for g in gates(masked).values() for v in g.learned()]
    exclude_from_decay(optimizer, learned, masked.trainable_variables)


def close_gates(
    masked: keras.Model, graph: ChannelGraph | None = None
) -> dict[str, np.ndarray]:
    """Turn gates into masks and switch the gates off.

    Channels whose gate is closed are removed, with their optimizer slots. The
    model's outputs in inference stay the same, and it can be rebuilt. Gates that
    depend on the sample are replaced by their means over the training samples: as
    many channels are kept as an average sample uses, those with the largest means,
    and the weights that read them are multiplied with the mean. This changes the
    outputs, so train the model some more.

    Args:
        masked: A model with gates from `add_gates` or `add_dynamic_gates`.
        graph: `kprune.trace(masked)`, if you have it already.

    Returns:
        The masks of the groups that had a gate. See `kprune.masks`.

    Raises:
        ValueError: If the model has no gates.
    """
    require_masked(masked, "close_gates()")
    graph = graph or trace(masked)
    known = gates(masked)
    if not known:
        raise ValueError(
            f"Model '{masked.name}' has no gates to turn into masks. Add them "
            "with kprune.masking.add_gates() or "
            "kprune.masking.add_dynamic_gates() first."
        )
    before = masks(masked, graph)
    found = {}
    with shifting_copies(getattr(masked, "optimizer", None)):
        for name, gate in acting_gates(masked).items():
            values = gate.static(before[name] > 0)
            kept = np.where(values > 0, before[name], 0)
            found[name] = kept.astype("float32")
            if isinstance(gate, DynamicGate):
                _multiply(graph[name], np.where(values > 0, values, 1.0))
    set_masks(masked, found, graph)
    zero_removed(masked, graph, masks(masked, graph))
    for gate in known.values():
        gate.acts = False
    return {name: found.get(name, before[name]) for name in known}


def _multiply(group: Group, values: np.ndarray) -> None:
    """Multiply the weights that read a group's channels."""
    for member in group.consumers:
        weights = np.array(read(member.variable))
        rows = np.moveaxis(weights, member.axis, 0)
        shape = (-1, member.index.shape[1], *[1] * (rows.ndim - 1))
        factor = values.reshape(-1, 1).repeat(member.index.shape[1], 1)
        rows[member.index] *= factor.reshape(shape).astype(rows.dtype)
        member.variable.assign(weights)


def acting_gates(masked: keras.Model) -> dict[str, GroupGate]:
    """Return the active gates of a model.

    Args:
        masked: A model made by `kprune.wrap`.
    """
    return {name: gate for name, gate in gates(masked).items() if gate.acts}


def require_no_gates(masked: keras.Model, owner: str) -> None:
    """Raise if a model has active gates, which no compact model can have.

    Args:
        masked: A model made by `kprune.wrap`.
        owner: The calling function, for messages.
    """
    for gate in acting_gates(masked).values():
        raise ValueError(
            f"{owner}: model '{masked.name}' {gate.why_not_static}"
        )

"""Models of Keras 2: their configuration as Keras 3 writes it.

Keras 3 reads this form too, but drops or misreads parts of it: lists of axes,
tensors among the keyword arguments of a call, `/` in names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import keras

from kprune.loading import layers
from kprune.loading import names
from kprune.loading import operations
from kprune.loading.kinds import FileError

Config = dict[str, Any]

_MODELS = ("Functional", "Model")
_NESTED = ("layer", "backward_layer", "cell")
_ACTIVATIONS = ("activation", "recurrent_activation")
CODE = (
    "holds Python code (a Lambda layer), which kprune does not run. Replace the "
    "Lambda by a Keras operation or a registered layer; or, if you trust the file, "
    "call kprune.load(path, safe_mode=False) in Python."
)


def decode(text: str | bytes) -> Any:
    """Return what the JSON in a file of Keras 2 stands for."""

    def known(value: Config) -> Any:
        name = value.get("class_name")
        if name == "TensorShape":
            return value["items"]
        if name == "__tuple__":
            return tuple(value["items"])
        if value.get("type") == "ndarray" and "value" in value:
            return value["value"]
        return value

    return json.loads(text, object_hook=known)


class Translator:
    """Turns configurations of Keras 2 into those of Keras 3.

    Args:
        custom_objects: Classes and functions by name, which win over Keras'.
        safe_mode: Refuse code inside of the file.
    """

    def __init__(
        self, custom_objects: Mapping[str, Any], safe_mode: bool
    ) -> None:
        self._custom = dict(custom_objects)
        self._safe = safe_mode

    def model(self, config: Config) -> Config:
        """Return the configuration of a model or layer for Keras 3.

        Args:
            config: `{"class_name": ..., "config": ...}`, as Keras 2 wrote it.

        Returns:
            What `keras.saving.deserialize_keras_object` takes.

        Raises:
            FileError: For layers that Keras 3 does not have, and for code.
        """
        name: str = config["class_name"]
        inner = config.get("config") or {}
        if isinstance(inner, dict) and "/" in (inner.get("name") or ""):
            inner = {**inner, "name": inner["name"].replace("/", "_")}
        registered = config.get("registered_name") or name
        for known in (registered, name):
            if keras.saving.get_registered_object(known, self._custom):
                return _entry(None, name, self._graph(inner), known)
        if name == "Sequential":
            return _entry("keras", name, self._sequential(inner))
        if name in _MODELS:
            return _entry("keras", "Model", self._graph(inner))
        if name == "Lambda":
            inner = self._function(inner)
        now = layers.ALIASES.get(name, name)
        if not hasattr(keras.layers, now):
            raise FileError(
                f"needs {name!r}, the class of layer "
                f"{inner.get('name')!r}, which Keras 3 does not have. Pass "
                f"custom_objects={{{name!r}: ...}} with that class, written for "
                "Keras 3."
            )
        inner = self._parts(layers.adapt(name, inner))
        return _entry("keras.layers", now, inner)

    def _parts(self, config: Config) -> Config:
        for key in _NESTED:
            if isinstance(config.get(key), dict):
                config[key] = self.model(config[key])
        if isinstance(config.get("cells"), (list, tuple)):
            config["cells"] = [self.model(cell) for cell in config["cells"]]
        for key in _ACTIVATIONS:
            if config.get(key) is not None:
                config[key] = self._activation(config[key], config.get("name"))
        return config

    def _activation(self, value: Any, layer: str | None) -> Any:
        if isinstance(value, dict):
            if value.get("class_name") != "function":  # a layer
                return keras.saving.deserialize_keras_object(
                    self.model(value), self._custom, safe_mode=self._safe
                )
            value = value["config"]
        value = "softmax" if value == "softmax_v2" else value
        if value == "hard_sigmoid" and value not in self._custom:
            raise FileError(
                f"has a layer {layer!r} that uses the hard_sigmoid of Keras 2, "
                "clip(0.2 x + 0.5, 0, 1); that of Keras 3 is clip(x / 6 + 0.5, 0, "
                "1). Pass custom_objects={'hard_sigmoid': function}."
            )
        return self._custom.get(value, value)

    def _function(self, config: Config) -> Config:
        """Return the configuration of a Lambda, unless it holds code."""
        function = config.get("function")
        others = (config.get("output_shape_type"), config.get("mask_type"))
        if not isinstance(function, (list, dict)) and "lambda" not in others:
            named = _entry(None, "function", function, function)
            return {"name": config.get("name"), "function": named}
        if self._safe:
            raise FileError(CODE)
        if isinstance(function, list):
            code, defaults, closure = function
            inner = {"code": code, "defaults": defaults, "closure": closure}
            function = {"class_name": "__lambda__", "config": inner}
        return {"name": config.get("name"), "function": function}

    def _sequential(self, config: Config | list[Config]) -> Config:
        if isinstance(config, list):  # before Keras 2.2.3
            config = {"name": None, "layers": config}
        new = names.renamed(config)
        entries: list[Config] = []
        for layer in config["layers"]:
            inner = layer["config"]
            shape = (
                inner.get("batch_input_shape")
                if isinstance(inner, dict)
                else None
            )
            if not entries and shape and layer["class_name"] != "InputLayer":
                entries.append(layers.input_layer(shape, inner))
            entries.append(self._layer(layer, new))
        return {**config, "layers": entries}

    def _graph(self, config: Config) -> Config:
        if "layers" not in config or "input_layers" not in config:
            return config
        new = names.renamed(config)
        shift = _offsets(config)
        entries = []
        for layer in config["layers"]:
            nodes = names.rename_references(layer["inbound_nodes"], new, shift)
            if layer["class_name"] in operations.CLASSES:
                entry, calls = operations.translate(layer, nodes)
                entry["name"] = new.get(layer["name"], layer["name"])
                entry["config"]["name"] = entry["name"]
            else:
                entry = self._layer(layer, new)
                recurrent = layer["class_name"].startswith(layers.RECURRENT)
                calls = [call(node, recurrent) for node in nodes]
            entries.append({**entry, "inbound_nodes": calls})
        # For the outputs of a model, Keras 3 counts nested ones from 1 too.
        sequential = {
            names.layer_name(layer): shift.get(names.layer_name(layer), 0)
            for layer in config["layers"]
            if layer["class_name"] == "Sequential"
        }
        tensors = {
            key: _unpacked(
                names.rename_references(config[key], new, sequential)
            )
            for key in ("input_layers", "output_layers")
        }
        return {**config, "layers": entries, **tensors}

    def _layer(self, layer: Config, new: Mapping[str, str]) -> Config:
        entry = self.model(layer)
        name = names.layer_name(layer)
        if isinstance(entry["config"], dict):
            entry["config"]["name"] = new.get(name, name) or None
        return {**entry, "name": new.get(name, name)}


def call(node: Any, recurrent: bool = False) -> Config:
    """Return one call of a layer, as Keras 3 writes it.

    Args:
        node: Nested references `[layer, node, tensor, keyword arguments]`.
        recurrent: Whether inputs beyond the first are the initial state.
    """
    keywords = operations.keywords(node)
    inputs = operations.tensors(node)
    if isinstance(inputs, list) and len(inputs) == 1:
        inputs = inputs[0]
    elif recurrent and isinstance(inputs, list):
        inputs, *state = inputs
        keywords["initial_state"] = state
    return {"args": [inputs], "kwargs": keywords}


def _offsets(config: Config) -> dict[str, int]:
    """Return from where the calls of each nested model are counted.

    In Keras 2 its own graph is the first, unless it was built by that call.
    """
    nodes = [layer["inbound_nodes"] for layer in config["layers"]]
    first = names.first_nodes([nodes, config["output_layers"]])
    return {
        names.layer_name(layer): first.get(names.layer_name(layer), 0)
        for layer in config["layers"]
        if isinstance(layer["config"], dict) and "layers" in layer["config"]
    }


def _unpacked(value: Any) -> Any:
    single = isinstance(value, list) and len(value) == 1
    return value[0] if single else value


def _entry(
    module: str | None, name: str, config: Any, registered: str | None = None
) -> Config:
    return {
        "module": module,
        "class_name": name,
        "config": config,
        "registered_name": registered,
    }

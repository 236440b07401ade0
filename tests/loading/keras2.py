"""HDF5 files as Keras 2 wrote them, made by hand."""

from __future__ import annotations

import json

import h5py


def write(path, config, weights, version="2.2.4", **attributes):
    """Write a file of a model.

    Args:
        path: Where to.
        config: `{"class_name": ..., "config": ...}` of the model.
        weights: Arrays of each layer, by its name.
        version: Version of Keras.
        attributes: Further attributes, as JSON.
    """
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = version.encode()
        for name, value in {"model_config": config, **attributes}.items():
            file.attrs[name] = json.dumps(value).encode()
        group = file.create_group("model_weights")
        group.attrs["keras_version"] = version.encode()
        group.attrs["backend"] = b"tensorflow"
        group.attrs["layer_names"] = [name.encode() for name in weights]
        for name, arrays in weights.items():
            layer = group.create_group(name)
            names = [f"{name}/w{i}:0" for i in range(len(arrays))]
            layer.attrs["weight_names"] = [n.encode() for n in names]
            for key, array in zip(names, arrays, strict=True):
                layer[key] = array


def layer(kind, name, **config):
    """Return the configuration of a layer."""
    return {"class_name": kind, "config": {"name": name, **config}}


def sequential(*layers):
    """Return the configuration of a Sequential model, as Keras 2.2.2 wrote it."""
    return {"class_name": "Sequential", "config": list(layers)}

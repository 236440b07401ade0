"""Data-parallel training with pruning: MirroredStrategy, or JAX's DataParallel.

    python examples/several_devices.py --devices 2
    KERAS_BACKEND=jax python examples/several_devices.py --devices 2

Without so many accelerators, the processor is split into virtual devices, which shows
that it works, not how fast it would be. See docs/distribution.md.
"""

from __future__ import annotations

import argparse
import contextlib
import os

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--devices", type=int, default=2)
parser.add_argument("--epochs", type=int, default=6)
parser.add_argument("--reduce", type=float, default=0.5)
options = parser.parse_args()

# JAX reads this when it is imported.
flag = f"--xla_force_host_platform_device_count={options.devices}"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"

import keras  # noqa: E402
from common import build_model  # noqa: E402
from common import print_result  # noqa: E402
from common import x_test  # noqa: E402
from common import x_train  # noqa: E402
from common import y_test  # noqa: E402
from common import y_train  # noqa: E402

import kprune  # noqa: E402
from kprune.callbacks import PruneCallback  # noqa: E402


def distribute():
    """Return a scope in which models are made for all devices."""
    if keras.backend.backend() == "jax":
        devices = keras.distribution.list_devices()[: options.devices]
        keras.distribution.set_distribution(
            keras.distribution.DataParallel(devices=devices)
        )
        print(f"{len(devices)} devices of JAX")
        return contextlib.nullcontext()
    import tensorflow as tf

    kind = "GPU"
    if len(tf.config.list_physical_devices(kind)) < options.devices:
        kind = "CPU"
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices(kind)[0],
            [tf.config.LogicalDeviceConfiguration()] * options.devices,
        )
    strategy = tf.distribute.MirroredStrategy(
        [f"{kind}:{n}" for n in range(options.devices)]
    )
    print(f"{strategy.num_replicas_in_sync} devices of TensorFlow")
    return strategy.scope()


keras.utils.set_random_seed(0)
# JAX splits each batch evenly: the last one must not be smaller.
batch = 40
fit = {"batch_size": batch, "epochs": options.epochs, "verbose": 2}
with distribute():
    model = build_model()
    model.fit(x_train, y_train, **fit)
    masked = kprune.wrap(model)  # On the devices of the model.
    prune = PruneCallback(
        reduce={"macs": options.reduce},
        schedule="one_shot",
        data=x_train[:256],
    )
    masked.fit(x_train, y_train, callbacks=[prune], **fit)
    compact = kprune.rebuild(masked)
    print_result(model, compact, x_test[:480], y_test[:480])
compact.save("digits.keras")

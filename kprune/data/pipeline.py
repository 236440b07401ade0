"""Input pipelines for `fit`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any

if TYPE_CHECKING:
    import tensorflow as tf


def batches(
    x: Any,
    y: Any,
    batch_size: int = 64,
    shuffle: bool = False,
    seed: int = 0,
    augment: Callable[..., Any] | None = None,
    preprocess: Callable[..., Any] | None = None,
) -> tf.data.Dataset:
    """Turn arrays into a `tf.data.Dataset` of batches.

    The order and the augmentation depend only on `seed` and the epoch.

    Args:
        x: Inputs `(n, ...)`, or a list or dictionary of these.
        y: Targets `(n, ...)`, or a list or dictionary of these.
        batch_size: Integer, examples per batch; the last may be smaller.
        shuffle: Whether to visit the examples in a new order every epoch.
        seed: Integer, for the order and the augmentation.
        augment: Function `f(x, seed) -> x` of a batch and an int64 tensor
            `(2,)`, such as `flip_and_crop`.
        preprocess: Function `f(x) -> x` of a batch, applied last.

    Returns:
        `tf.data.Dataset` of `(x, y)`. Pass `shuffle=False` to `fit`: Keras
        warns about its own default otherwise.

    Raises:
        ValueError: `x` and `y` differ in length.

    Example:

    ```python
    train = batches(x_train, y_train, 128, shuffle=True, seed=1)
    model.fit(train, epochs=3, shuffle=False)
    ```
    """
    import tensorflow as tf

    from kprune.data.arrays import count

    size, targets = count(x, "x"), count(y, "y")
    if size != targets:
        raise ValueError(
            f"x holds {size} examples and y {targets}; pass one target per input."
        )
    # TensorFlow would stack a list into one array.
    pair = tuple(tuple(a) if isinstance(a, list) else a for a in (x, y))
    dataset = tf.data.Dataset.from_tensor_slices(pair)
    if shuffle:
        dataset = dataset.shuffle(size, seed=seed)
    dataset = dataset.batch(batch_size)
    if augment is not None:
        seeds = tf.data.Dataset.random(seed, rerandomize_each_iteration=True)
        dataset = tf.data.Dataset.zip((dataset, seeds.batch(2))).map(
            lambda pair, seed: (augment(pair[0], seed), pair[1])
        )
    if preprocess is not None:
        dataset = dataset.map(lambda x, y: (preprocess(x), y))
    # With autotune on, `fit` can return long after its last step on CPU.
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options).prefetch(2)


def flip_and_crop(images: Any, seed: Any, padding: int = 4) -> tf.Tensor:
    """Mirror images at random and shift them by up to `padding` pixels.

    Pads with zeros, crops back to the size, flips left to right with
    probability one half: the usual CIFAR augmentation.

    Args:
        images: Tensor `(n, height, width, channels)`.
        seed: Integer tensor `(2,)`.
        padding: Integer, pixels added on every side.

    Returns:
        Tensor like `images`.

    Example:

    ```python
    train = batches(x, y, 128, shuffle=True, augment=flip_and_crop)
    ```

    Source: He et al., "Deep Residual Learning for Image Recognition",
    arXiv 1512.03385, section 4.2.
    """
    import tensorflow as tf

    count, height, width = (tf.shape(images)[axis] for axis in range(3))
    sides = [padding, padding]
    padded = tf.pad(images, [[0, 0], sides, sides, [0, 0]])
    draws = tf.random.stateless_uniform([3, count], seed)
    top, left = tf.unstack(tf.cast(draws[:2] * (2 * padding + 1), tf.int32))
    rows = top[:, None] + tf.range(height)[None]
    columns = left[:, None] + tf.range(width)[None]
    columns = tf.where(draws[2][:, None] < 0.5, columns[:, ::-1], columns)
    shifted = tf.gather(padded, rows, axis=1, batch_dims=1)
    return tf.gather(shifted, columns, axis=2, batch_dims=1)

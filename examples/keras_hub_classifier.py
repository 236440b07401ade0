"""A classifier of keras-hub, fine-tuned, pruned and exported.

    pip install keras-hub
    python examples/keras_hub_classifier.py --preset resnet_18_imagenet

With `--preset`, keras-hub fetches pretrained weights. Without it a tiny ResNet is made
from its configuration, so that nothing is downloaded. Digits, enlarged, stand for a
data set of one's own.
"""

from __future__ import annotations

import argparse

import keras
import keras_hub
from common import LOSS
from common import print_result
from common import x_test
from common import x_train
from common import y_test
from common import y_train

import kprune
from kprune.callbacks import PruneCallback

SIZE = 32


def build_classifier(preset: str | None) -> keras.Model:
    if preset is not None:
        backbone = keras_hub.models.Backbone.from_preset(
            preset, image_shape=(SIZE, SIZE, 3)
        )
    else:
        backbone = keras_hub.models.ResNetBackbone(
            input_conv_filters=[64],
            input_conv_kernel_sizes=[3],
            stackwise_num_filters=[64, 64],
            stackwise_num_blocks=[1, 1],
            stackwise_num_strides=[1, 2],
            block_type="basic_block",
            image_shape=(SIZE, SIZE, 3),
        )
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9  # A few dozen steps are too few for 0.99.
    return keras_hub.models.ImageClassifier(
        backbone, num_classes=10, preprocessor=None
    )


def enlarge(images):
    """Digits of 8x8 grey pixels become colour images of 32x32."""
    return images.repeat(4, axis=1).repeat(4, axis=2).repeat(3, axis=3)


def compile_model(model: keras.Model) -> None:
    model.compile(keras.optimizers.Adam(0.002), LOSS, metrics=["accuracy"])


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--preset", help="for example resnet_18_imagenet")
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--reduce", type=float, default=0.5)
options = parser.parse_args()

keras.utils.set_random_seed(0)
x, y = enlarge(x_train), y_train
classifier = build_classifier(options.preset)
compile_model(classifier)
classifier.fit(x, y, 32, epochs=options.epochs, verbose=2)

# A classifier of keras-hub is a functional model, and is pruned as any other. Its
# blocks become plain layers in the compact model, which loads without keras-hub.
masked = kprune.wrap(classifier)
compile_model(masked)
prune = PruneCallback(
    reduce={"macs": options.reduce}, schedule="one_shot", data=x[:256]
)
masked.fit(x, y, 32, epochs=options.epochs, verbose=2, callbacks=[prune])
compact = kprune.rebuild(masked)
compile_model(
    compact
)  # keras-hub has a compile() of its own: kprune leaves it alone.
print_result(classifier, compact, enlarge(x_test), y_test)
compact.save("classifier.keras")

"""Backbones of keras-hub, tiny, from their configuration, with a head."""

from __future__ import annotations

import keras
import numpy as np
from harness import random_inputs
from keras import layers

from kprune.graph import CompositeRule
from kprune.graph import walk
from kprune.graph.registry import find_rule

SIZE = 64


def models():
    import keras_hub

    return keras_hub.models


def resnet():
    return models().ResNetBackbone(
        input_conv_filters=[8],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 12],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="bottleneck_block",
        image_shape=(SIZE, SIZE, 3),
    )


def resnet_v2():
    return models().ResNetBackbone(
        input_conv_filters=[6, 6, 64],
        input_conv_kernel_sizes=[3, 3, 3],
        stackwise_num_filters=[64, 12],
        stackwise_num_blocks=[1, 2],
        stackwise_num_strides=[1, 2],
        block_type="bottleneck_block",
        use_pre_activation=True,
        image_shape=(SIZE, SIZE, 3),
    )


def densenet():
    return models().DenseNetBackbone(
        stackwise_num_repeats=[2, 3],
        growth_rate=6,
        image_shape=(SIZE, SIZE, 3),
    )


def efficientnet():
    return models().EfficientNetBackbone(
        stackwise_kernel_sizes=[3, 3, 5],
        stackwise_num_repeats=[1, 2, 2],
        stackwise_input_filters=[8, 8, 12],
        stackwise_output_filters=[8, 12, 16],
        stackwise_expansion_ratios=[1, 2, 3],
        stackwise_squeeze_and_excite_ratios=[0.0, 0.25, 0.25],
        stackwise_strides=[1, 2, 2],
        stackwise_block_types=["v1", "fused", "unfused"],
        stackwise_width_coefficients=[1.0] * 3,
        stackwise_depth_coefficients=[1.0] * 3,
        stackwise_force_input_filters=[0] * 3,
        stackwise_nores_option=[False] * 3,
        depth_divisor=4,
        min_depth=4,
        num_features=20,
        input_shape=(SIZE, SIZE, 3),
    )


def mobilenet():
    return models().MobileNetBackbone(
        stackwise_expansion=[[8, 12], [16]],
        stackwise_num_blocks=[2, 1],
        stackwise_num_filters=[[8, 8], [12]],
        stackwise_kernel_size=[[3, 3], [5]],
        stackwise_num_strides=[[2, 1], [2]],
        stackwise_se_ratio=[[None, 0.25], [0.25]],
        stackwise_activation=[["relu", "relu"], ["hard_swish"]],
        stackwise_padding=[[1, 1], [2]],
        output_num_filters=24,
        input_num_filters=8,
        depthwise_filters=8,
        depthwise_stride=1,
        depthwise_residual=True,
        squeeze_and_excite=0.5,
        last_layer_filter=20,
        image_shape=(SIZE, SIZE, 3),
    )


def csp_darknet():
    return models().CSPNetBackbone(
        stem_filters=8,
        stem_kernel_size=3,
        stem_strides=1,
        stackwise_depth=[1, 2],
        stackwise_strides=[2, 2],
        stackwise_num_filters=[8, 16],
        block_type="dark_block",
        stage_type="csp",
        bottle_ratio=[0.5, 1.0],
        block_ratio=[1.0, 0.5],
        expand_ratio=[2.0, 1.0],
        image_shape=(SIZE, SIZE, 3),
    )


def vgg():
    return models().VGGBackbone(
        stackwise_num_repeats=[1, 2],
        stackwise_num_filters=[6, 8],
        image_shape=(SIZE, SIZE, 3),
    )


def xception():
    return models().XceptionBackbone(
        stackwise_conv_filters=[[8, 12], [12, 12, 12], [16, 16]],
        stackwise_pooling=[True, False, False],
        image_shape=(SIZE, SIZE, 3),
    )


def mit():
    return models().MiTBackbone(
        layerwise_depths=[1, 1],
        num_layers=2,
        layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[2, 1],
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2],
        hidden_dims=[8, 16],
        image_shape=(32, 32, 3),
    )


def vit():
    return models().ViTBackbone(
        image_shape=(16, 16, 3),
        patch_size=4,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        mlp_dim=16,
    )


def deit():
    return models().DeiTBackbone(
        image_shape=(16, 16, 3),
        patch_size=4,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
    )


def swin():
    return models().SwinTransformerBackbone(
        image_shape=(32, 32, 3),
        embed_dim=8,
        depths=(2, 2),
        num_heads=(2, 2),
        window_size=4,
    )


def hgnet_v2():
    return models().HGNetV2Backbone(
        depths=[1, 2],
        embedding_size=8,
        hidden_sizes=[16, 24],
        stem_channels=[3, 8, 8],
        hidden_act="relu",
        use_learnable_affine_block=True,
        stackwise_stage_filters=[(8, 6, 16, 1, 2, 3), (16, 8, 24, 2, 2, 3)],
        apply_downsample=[False, True],
        use_lightweight_conv_block=[False, True],
        image_shape=(SIZE, SIZE, 3),
    )


def vit_det():
    return models().ViTDetBackbone(
        hidden_size=8,
        num_layers=2,
        intermediate_dim=16,
        num_heads=2,
        global_attention_layer_indices=[1],
        patch_size=4,
        num_output_channels=8,
        window_size=2,
        image_shape=(16, 16, 3),
    )


def segformer():
    return models().SegFormerBackbone(image_encoder=mit(), projection_filters=8)


def deeplab_v3():
    return models().DeepLabV3Backbone(
        image_encoder=resnet(),
        projection_filters=6,
        low_level_feature_key="P2",
        spatial_pyramid_pooling_key="P3",
        upsampling_size=2,
        dilation_rates=[1, 2],
        image_shape=(SIZE, SIZE, 3),
    )


def basnet():
    return models().BASNetBackbone(
        image_encoder=models().ResNetBackbone(
            input_conv_filters=[64],
            input_conv_kernel_sizes=[7],
            stackwise_num_filters=[64, 128, 256, 512],
            stackwise_num_blocks=[1, 1, 1, 1],
            stackwise_num_strides=[1, 2, 2, 2],
            block_type="basic_block",
        ),
        num_classes=1,
        projection_filters=64,
        image_shape=(SIZE, SIZE, 3),
    )


def sam():
    import keras_hub

    return models().SAMBackbone(
        image_encoder=vit_det(),
        prompt_encoder=keras_hub.layers.SAMPromptEncoder(
            hidden_size=8,
            image_embedding_size=(4, 4),
            input_image_size=(16, 16),
            mask_in_channels=8,
        ),
        mask_decoder=keras_hub.layers.SAMMaskDecoder(
            num_layers=2,
            hidden_size=8,
            intermediate_dim=16,
            num_heads=2,
            embedding_dim=8,
            num_multimask_outputs=3,
            iou_head_depth=2,
            iou_head_hidden_dim=8,
        ),
    )


BACKBONES = [
    resnet, resnet_v2, densenet, efficientnet, mobilenet, csp_darknet, vgg,
    xception, hgnet_v2, mit, vit, deit, swin, vit_det, segformer, deeplab_v3,
    basnet, sam,
]  # fmt: skip


def retinanet():
    """A detector of boxes and classes, on three levels of a small backbone."""
    import keras_hub

    encoder = models().ResNetBackbone(
        input_conv_filters=[8],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 12, 16, 20],
        stackwise_num_blocks=[1, 1, 1, 1],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="bottleneck_block",
        image_shape=(None, None, 3),
    )
    backbone = models().RetinaNetBackbone(
        image_encoder=encoder,
        min_level=3,
        max_level=5,
        use_p5=False,
        image_shape=(SIZE, SIZE, 3),
    )
    anchors = keras_hub.layers.AnchorGenerator(
        "yxyx",
        min_level=3,
        max_level=5,
        num_scales=1,
        aspect_ratios=[1.0],
        anchor_size=4.0,
    )
    return models().RetinaNetObjectDetector(
        backbone,
        num_classes=3,
        anchor_generator=anchors,
        pre_logits_num_conv_layers=1,
    )


def with_head(build):
    """The backbone under a classifier that reads all it computes."""
    backbone = build()
    outputs = keras.tree.flatten(backbone.output)
    pooled = [
        layers.GlobalAveragePooling2D()(x)
        if len(x.shape) == 4
        else layers.GlobalAveragePooling1D()(x)
        for x in outputs
    ]
    x = pooled[0] if len(pooled) == 1 else layers.Concatenate()(pooled)
    x = layers.Dense(3, name="head")(x)
    return keras.Model(backbone.input, x, name=build.__name__)


def inputs(model, batch=3):
    """Random inputs; SAM's prompts have sizes that must fit each other."""
    if not isinstance(model.input, dict):
        return random_inputs(model, batch)
    shapes = {
        "images": (16, 16, 3),
        "points": (1, 2),
        "labels": (1,),
        "boxes": (1, 2, 2),
        "masks": (0, 16, 16, 1),
    }
    rng = np.random.default_rng(0)
    # One of SAM's outputs has a batch axis of 1, whatever the batch.
    return {k: rng.random((1, *shape)) for k, shape in shapes.items()}


def unseen(model):
    """Classes of layers with weights that kprune cannot look into."""
    found = set()
    for layer in walk.layers_of(model):
        rule = find_rule(layer)
        if layer.weights and (rule is None or isinstance(rule, CompositeRule)):
            found.add(type(layer).__name__)
    return sorted(found)

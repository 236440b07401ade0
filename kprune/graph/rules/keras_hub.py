"""Layers of keras-hub, which need not be installed: they go by their names."""

from __future__ import annotations

from kprune.graph.registry import CompositeRule
from kprune.graph.registry import register_rule

MODELS = "keras_hub.src.models"

COMPOSITES = {
    "efficientnet.cba": "CBABlock",
    "efficientnet.fusedmbconv": "FusedMBConvBlock",
    "efficientnet.mbconv": "MBConvBlock",
    "mobilenet.mobilenet_backbone": (
        "SqueezeAndExcite2D DepthwiseConvBlock InvertedResidualBlock ConvBnActBlock"
    ),
    "hgnetv2.hgnetv2_encoder": "HGNetV2Encoder",
    "hgnetv2.hgnetv2_layers": (
        "HGNetV2ConvLayer HGNetV2ConvLayerLight HGNetV2Embeddings "
        "HGNetV2BasicLayer HGNetV2Stage"
    ),
    "mit.mit_layers": (
        "OverlappingPatchingAndEmbedding HierarchicalTransformerEncoder MixFFN "
        "SegFormerMultiheadAttention"
    ),
    "vit.vit_layers": "MLP ViTEncoderBlock ViTEncoder",
    "deit.deit_layers": "DeiTIntermediate DeiTOutput DeiTEncoderBlock DeiTEncoder",
    "swin_transformer.swin_transformer_layers": (
        "Mlp SwinTransformerBlock PatchMerging PatchEmbedding SwinTransformerStage"
    ),
    "deeplab_v3.deeplab_v3_layers": "SpatialPyramidPooling",
    "vit_det.vit_layers": (
        "MLP WindowedTransformerEncoder ViTDetPatchingAndEmbedding"
    ),
    "sam.sam_layers": "MLP",
}

for _module, _names in COMPOSITES.items():
    register_rule(*(f"{MODELS}.{_module}:{n}" for n in _names.split()))(
        CompositeRule
    )

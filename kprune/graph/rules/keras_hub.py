"""Layers of keras-hub, registered by name because it may not be installed."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

from kprune.graph.call import FILTER
from kprune.graph.call import INPUT
from kprune.graph.call import SCALE
from kprune.graph.call import Axis
from kprune.graph.call import Call
from kprune.graph.call import channel_factor
from kprune.graph.kept import Kept
from kprune.graph.labels import Labels
from kprune.graph.record import Visit
from kprune.graph.registry import CompositeRule
from kprune.graph.registry import Rule
from kprune.graph.registry import configuration
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
    "swin_transformer.swin_transformer_layers": (
        "Mlp PatchMerging PatchEmbedding SwinTransformerStage"
    ),
    "deeplab_v3.deeplab_v3_layers": "SpatialPyramidPooling",
    "vit_det.vit_layers": (
        "MLP ViTDetPatchingAndEmbedding WindowedTransformerEncoder "
        "MultiHeadAttentionWithRelativePE"
    ),
}

for _module, _names in COMPOSITES.items():
    register_rule(*(f"{MODELS}.{_module}:{n}" for n in _names.split()))(
        CompositeRule
    )


@register_rule(
    f"{MODELS}.mit.mit_layers:DropPath",
    f"{MODELS}.swin_transformer.swin_transformer_layers:DropPath",
)
class DropPathRule(Rule):
    """Scales whole samples, so labels pass unchanged."""

    def trace(self, call: Call) -> Labels:
        return call.input


@register_rule(f"{MODELS}.hgnetv2.hgnetv2_layers:HGNetV2LearnableAffineBlock")
class AffineRule(Rule):
    """Scales and shifts all channels by the same two scalars."""

    def trace(self, call: Call) -> Labels:
        return call.input.replace(zero=False)


class PatchingRule(Rule):
    """A convolution with position embeddings and extra tokens."""

    @abc.abstractmethod
    def tables(self, layer: Any) -> Iterator[Any]:
        """Yield the variables whose last axis has one entry per filter."""

    def trace(self, call: Call) -> Labels:
        layer, x = call.layer, call.input
        conv = layer.patch_embedding
        first = conv.data_format == "channels_first"
        axis = 1 if first else x.rank - 1
        others = [a for a in range(1, x.rank) if a != axis]
        x = call.settle(x, others, f"{call!r} works along this axis")
        incoming = call.one_axis(x, axis)
        slots = call.filters(conv._kernel, -1)
        call.bind(
            conv._kernel,
            {-2: Axis(incoming, INPUT, axis), -1: Axis([slots], FILTER)},
        )
        call.bind(conv.bias, {0: Axis([slots], FILTER)})
        for table in self.tables(layer):
            call.bind(table, {-1: Axis([slots], FILTER)})
        call.work(conv._kernel, [layer.num_patches])
        shape = call.output_shape
        return Labels(shape, (channel_factor(slots, -1, len(shape)),))

    def copied(self, operation: Any) -> dict[str, Any]:
        # get_config() has entries that the constructor does not take.
        config = configuration(operation)
        del config["num_patches"], config["num_positions"]
        config["data_format"] = operation.data_format
        return config

    def config(self, visit: Visit, kept: Kept) -> dict[str, Any]:
        config = self.copied(visit.operation)
        kernel = visit.operation.patch_embedding._kernel
        config["hidden_dim"] = kept.size(kernel, -1)
        config["num_channels"] = kept.size(kernel, -2)
        return config


@register_rule(f"{MODELS}.vit.vit_layers:ViTPatchingAndEmbedding")
class ViTPatchingRule(PatchingRule):
    """Position embeddings and an optional class token."""

    def tables(self, layer: Any) -> Iterator[Any]:
        yield layer.position_embedding._embeddings
        if layer.use_class_token:
            yield layer.class_token

    def copied(self, operation: Any) -> dict[str, Any]:
        config = super().copied(operation)
        config["use_patch_bias"] = operation.use_patch_bias
        return config


@register_rule(f"{MODELS}.deit.deit_layers:DeiTEmbeddings")
class DeiTPatchingRule(PatchingRule):
    """Position embeddings, a class token and a distillation token."""

    def tables(self, layer: Any) -> Iterator[Any]:
        yield layer.position_embedding
        yield layer.class_token
        yield layer.distillation_token
        if layer.use_mask_token:
            yield layer.mask_token


@register_rule(f"{MODELS}.vit_det.vit_layers:AddPositionalEmbedding")
class AddPositionRule(Rule):
    """Adds a table with one row per position."""

    def trace(self, call: Call) -> Labels:
        x = call.settle(call.input, (1, 2), f"{call!r} has a row per position")
        labels = call.one_axis(x, -1)
        call.bind(call.layer.pos_embed, {-1: Axis(labels, SCALE)})
        return x

    def config(self, visit: Visit, kept: Kept) -> dict[str, Any]:
        config = configuration(visit.operation)
        config["embed_dim"] = kept.size(visit.operation.pos_embed, -1)
        return config


@register_rule(f"{MODELS}.vit_det.vit_layers:AddRelativePositionalEmbedding")
class RelativePositionRule(Rule):
    """Adds products of queries and a table to the attention scores."""

    def trace(self, call: Call) -> Labels:
        scores, queries = call.inputs
        scores = call.settle(
            scores, (1, 2), f"{call!r} adds a term per position"
        )
        queries = call.settle(queries, (1,), f"{call!r} compares positions")
        labels = call.one_axis(queries, -1)
        for table in (call.layer.rel_pos_h, call.layer.rel_pos_w):
            call.bind(table, {-1: Axis(labels, INPUT, 2)})
            call.work(table, [call.kwargs["query_size"][0]])
        return scores

    def config(self, visit: Visit, kept: Kept) -> dict[str, Any]:
        config = configuration(visit.operation)
        config["key_dim"] = kept.size(visit.operation.rel_pos_h, -1)
        return config


@register_rule(
    f"{MODELS}.swin_transformer.swin_transformer_layers:WindowAttention"
)
class WindowAttentionRule(Rule):
    """Pinned: the heads together must be as wide as the input."""

    def trace(self, call: Call) -> Sequence[Labels]:
        layer = call.layer
        if call.input.shape[1] is not None:
            windows = call.input.shape[0] or 1
            area = call.input.shape[1]
            for dense in (layer.qkv, layer.proj):
                call.work(dense._kernel, [windows, area])
        return call.pin_all(f"{call!r} has heads as wide as its input")

    def copied(self, operation: Any) -> dict[str, Any]:
        # get_config() has entries that the constructor does not take.
        config = configuration(operation)
        for name in ("win_h", "win_w", "attn_dim"):
            del config[name]
        config["qk_scale"] = config.pop("scale")
        config["proj_drop"] = operation.proj_drop_rate
        return config

    def config(self, visit: Visit, kept: Kept) -> dict[str, Any]:
        return self.copied(visit.operation)

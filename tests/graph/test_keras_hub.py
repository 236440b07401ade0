"""Vision backbones of keras-hub, from their configuration."""

from __future__ import annotations

import keras
import pytest

pytest.importorskip("keras_hub", reason="needs keras-hub")

import hub
from harness import assert_exact
from harness import assert_saves
from harness import difference
from harness import floatx
from harness import outputs

import kprune

# All channels but those of the head.
WHOLE = [
    hub.resnet, hub.resnet_v2, hub.densenet, hub.efficientnet, hub.mobilenet,
    hub.csp_darknet, hub.vgg, hub.xception, hub.hgnet_v2, hub.mit, hub.vit,
    hub.deit, hub.segformer, hub.deeplab_v3,
]  # fmt: skip
# All but the insides of attention heads, which are reshaped into the batch,
# and of layers that kprune cannot look into.
PARTLY = {hub.vit_det: [], hub.sam: ["SAMPromptEncoder"]}
# keras-hub's own patching layers refuse their own configuration.
CANNOT_BE_LOADED = {hub.vit, hub.deit}


SLOW = {
    hub.hgnet_v2,
    hub.efficientnet,
    hub.resnet_v2,
    hub.mobilenet,
    hub.segformer,
    hub.csp_darknet,
    hub.deeplab_v3,
    hub.mit,
    hub.densenet,
}


def named(builds):
    return [
        pytest.param(
            build,
            id=build.__name__,
            marks=[pytest.mark.slow] if build in SLOW else [],
        )
        for build in builds
    ]


@pytest.mark.parametrize("build", named(WHOLE))
def test_every_channel_is_prunable(build, tmp_path):
    with floatx("float64"):
        model = hub.with_head(build)
        coverage = kprune.trace(model).coverage
        assert coverage.reasons == {"feeds the model output 'head'": 3}
        assert_exact(model, 1e-10)
    if build not in CANNOT_BE_LOADED:
        model = hub.with_head(build)
        masked = kprune.prune(model, "l1", {"params": 0.3})
        x = hub.inputs(model)
        compact = kprune.rebuild(masked)
        assert difference(outputs(masked, x), outputs(compact, x)) <= 1e-5
        assert_saves(compact, x, tmp_path / "compact.keras")


@pytest.mark.slow
def test_basnet():
    with floatx("float64"):
        model = hub.with_head(hub.basnet)
        reasons = kprune.trace(model).coverage.reasons
        assert reasons == {
            "feeds the model output 'head'": 3,
            "the only filter of its layer": 8,
        }
        assert_exact(model, 1e-10)


@pytest.mark.parametrize("build", named(PARTLY))
def test_what_kprune_cannot_see_is_left_and_the_rest_is_exact(build):
    with floatx("float64"):
        model = hub.with_head(build)
        assert hub.unseen(model) == PARTLY[build]
        coverage = kprune.trace(model).coverage
        del coverage.reasons["feeds the model output 'head'"]
        why = "mixes this axis with one of unknown size"
        assert all(why in reason for reason in coverage.reasons)
        assert sum(coverage.reasons.values()) == 48 and coverage.prunable == 56
        assert_exact(model, 1e-10, x=hub.inputs(model))


# What keras-hub's Swin tells of itself.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Layer 'attn' .* was passed an input")
def test_swin_is_pruned_between_its_windows():
    with floatx("float64"):
        model = hub.with_head(hub.swin)
        coverage = kprune.trace(model).coverage
        assert coverage.prunable == 192 and hub.unseen(model) == []
        told = "WindowAttention 'attn' has heads as wide as its input"
        assert coverage.reasons[told] == 72
        assert_exact(model, 1e-10)


@pytest.mark.slow
@pytest.mark.tensorflow
def test_a_detector_is_pruned_saved_loaded_and_exported(tmp_path):
    model = hub.retinanet()
    graph = kprune.trace(model)
    assert graph.coverage.pinned == 4 + 3 and not graph.opaque
    _, compact, x = assert_exact(model, 1e-5)
    assert compact.count_params() < 0.6 * model.count_params()
    assert set(compact(x)) == {"bbox_regression", "cls_logits"}
    assert compact.predict(x, verbose=0)["boxes"].shape[0] == x.shape[0]
    assert_saves(compact, x, tmp_path / "compact.keras")
    assert kprune.export(compact, tmp_path / "compact.tflite").path.is_file()


def test_a_compact_block_is_a_plain_model():
    masked = kprune.prune(hub.with_head(hub.efficientnet), "l1", {"macs": 0.3})
    compact = kprune.rebuild(masked)
    kinds = {type(x).__module__ for x in compact._flatten_layers()}
    assert not any(kind.startswith("keras_hub") for kind in kinds)
    assert isinstance(compact.get_layer("block2a_"), keras.Model)

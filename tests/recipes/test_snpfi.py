from __future__ import annotations

import keras
import pytest
from fitting import arrays
from fitting import dataset
from fitting import loss
from fitting import small_net
from harness import difference
from harness import outputs
from harness import random_inputs

import kprune
from kprune.allocation import Utilisation
from kprune.criteria import Shapley
from kprune.recovery import InteractionMatch


@pytest.mark.slow
def test_from_end_to_end():
    model = small_net(8)
    eager = keras.config.backend() != "jax"
    model.compile(keras.optimizers.SGD(0.05), loss(), run_eagerly=eager)
    recipe = kprune.recipe(
        "snpfi",
        {"macs": 0.4},
        arrays(32),
        2,
        criterion=Shapley(permutations=1, steps=3),
        allocation=Utilisation(pairs=1),
        matching=InteractionMatch(steps=2),
    )
    masked = recipe.prepare(model)
    history = masked.fit(
        dataset(), epochs=2, callbacks=recipe.callbacks, verbose=0
    ).history
    compact = kprune.rebuild(masked)
    saved = 1 - kprune.cost(compact).macs / kprune.cost(model).macs
    assert 0.4 <= saved < 0.6
    assert history["pruned_macs"] == pytest.approx([saved] * 2)
    x = random_inputs(model)
    assert difference(outputs(masked, x), outputs(compact, x)) <= 1e-5


def test_it_needs_targets():
    with pytest.raises(ValueError, match="'snpfi' lacks data"):
        kprune.recipe("snpfi", epochs=3)

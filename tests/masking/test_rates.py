import keras
import pytest

from kprune.masking.rates import rate_for_fine_tuning

Adam = keras.optimizers.Adam
Decay = keras.optimizers.schedules.PolynomialDecay


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (None, None),
        (Adam(1e-3), None),
        (Adam(2e-5), None),
        (Adam(6.6e-6), 1e-4),
        (keras.optimizers.SGD(1e-5), 1e-3),
        (keras.optimizers.LossScaleOptimizer(Adam(1e-6)), 1e-4),
        (Adam(Decay(1e-3, 10)), None),
        (Adam(Decay(0.0, 10, 0.0)), 1e-4),
    ],
)
def test_a_decayed_rate_is_told_from_a_small_one(optimizer, expected):
    found = rate_for_fine_tuning(optimizer)
    assert found == (expected if expected is None else pytest.approx(expected))

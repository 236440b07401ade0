"""How Keras reads the arguments of a wrapper's call."""

from __future__ import annotations

import inspect
from typing import Any


def call_signature(layer: Any) -> inspect.Signature:
    """Return the signature of a wrapper `call(inputs, *args, **kwargs)` around `layer`.

    Keras takes what `**kwargs` collects for one nested argument, which must
    not mix tensors and other values, as in `mha(x, x, attention_mask=m,
    use_causal_mask=True)`. So the keywords of the layer are named one by one,
    but for the masks that Keras fills in by itself: the inner call does that.
    """
    kinds = inspect.Parameter
    own = list(inspect.signature(layer.call).parameters.values())[1:]
    own = [p for p in own if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    filled = {"mask", *(f"{p.name}_mask" for p in own)}
    taken = {"inputs", "args", "kwargs"}
    named = [
        kinds(
            p.name,
            kinds.KEYWORD_ONLY,
            # May be among the positional arguments.
            default=None if p.default is p.empty else p.default,
        )
        for p in own
        if p.name not in filled | taken
    ]
    return inspect.Signature(
        [
            kinds("inputs", kinds.POSITIONAL_OR_KEYWORD),
            kinds("args", kinds.VAR_POSITIONAL),
            *named,
            kinds("kwargs", kinds.VAR_KEYWORD),
        ]
    )

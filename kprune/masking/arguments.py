"""Call signatures of wrappers, from which Keras reads the arguments."""

from __future__ import annotations

import inspect
from typing import Any


def call_signature(layer: Any) -> inspect.Signature:
    """Return the signature of a wrapper `call(inputs, *args, **kwargs)` around `layer`.

    Keras treats everything in `**kwargs` as one nested argument, which must not
    mix tensors and other values, as in `mha(x, x, attention_mask=m,
    use_causal_mask=True)`. So the signature names the layer's keywords one by
    one. It leaves out the masks that Keras fills in, because the inner call
    fills them in.
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
            # The argument may be given by position instead.
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

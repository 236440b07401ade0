"""Published pruning systems by one name each, put together from public parts.

A name such as `"attenuation"`, see `names`, or your own: a class or function with
`register`. Each is a file of its name.
"""

from kprune.lazy import part_attributes as _attributes
from kprune.recipes.base import Recipe as Recipe
from kprune.recipes.base import names as names
from kprune.recipes.base import recipe as recipe
from kprune.recipes.base import register as register

__getattr__, __dir__ = _attributes(__name__)

"""Published pruning systems by one name each, put together from public parts.

`"attenuation"`, `"duplication"`, `"hgs"`, `"msvfp"`, `"similarity"`,
`"similarity-soft"`, or your own: one file or function with `register`.
"""

from kprune.lazy import part_attributes
from kprune.recipes.base import Recipe as Recipe
from kprune.recipes.base import names as names
from kprune.recipes.base import recipe as recipe
from kprune.recipes.base import register as register

__getattr__, __dir__ = part_attributes(__name__)

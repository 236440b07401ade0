"""Published pruning systems, each built from public parts and available by name.

See `names` for their names. Add a class or function of your own with `register`.
Each recipe is a file of its name.
"""

from kprune.lazy import part_attributes as _attributes
from kprune.recipes.base import Recipe as Recipe
from kprune.recipes.base import names as names
from kprune.recipes.base import recipe as recipe
from kprune.recipes.base import register as register

__getattr__, __dir__ = _attributes(__name__)

"""Published pruning systems by one name each, put together from public parts.

`"attenuation"`, `"duplication"`, `"similarity"`, `"similarity-soft"`, `"msvfp"`,
`"hgs"`, or your own: one file or function with `register`.
"""

from kprune.recipes.attenuation import Attenuation as Attenuation
from kprune.recipes.base import Recipe as Recipe
from kprune.recipes.base import names as names
from kprune.recipes.base import recipe as recipe
from kprune.recipes.base import register as register
from kprune.recipes.duplication import Duplication as Duplication
from kprune.recipes.hgs import HGS as HGS
from kprune.recipes.msvfp import MSVFP as MSVFP
from kprune.recipes.similarity import Similarity as Similarity
from kprune.recipes.similarity_soft import SimilaritySoft as SimilaritySoft

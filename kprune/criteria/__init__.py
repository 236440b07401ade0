"""Criteria: scores of channels. Channels with larger scores are more important.

A criterion is given as a name such as `"l1"` (see `names`), an object, or any
function `f(group)` that returns scores of shape `(group.size,)`. Each is a file of
its name, here or in the folder `criteria` of a higher package.
"""

from kprune.criteria._similarities import twins as twins
from kprune.criteria.base import Criterion as Criterion
from kprune.criteria.base import GroupCriterion as GroupCriterion
from kprune.criteria.base import filters as filters
from kprune.criteria.base import get as get
from kprune.criteria.base import names as names
from kprune.criteria.base import register as register
from kprune.criteria.base import score_groups as score_groups
from kprune.lazy import part_attributes as _attributes

__getattr__, __dir__ = _attributes(__name__)

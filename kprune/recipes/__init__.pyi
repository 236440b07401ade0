# Written by `make format`.

from kprune.recipes.ascp import ASCP as ASCP
from kprune.recipes.attenuation import Attenuation as Attenuation
from kprune.recipes.base import Recipe as Recipe
from kprune.recipes.base import names as names
from kprune.recipes.base import recipe as recipe
from kprune.recipes.base import register as register
from kprune.recipes.bn_importance import BNImportance as BNImportance
from kprune.recipes.cross_filter import CrossFilter as CrossFilter
from kprune.recipes.duplication import Duplication as Duplication
from kprune.recipes.filtersketch import FilterSketch as FilterSketch
from kprune.recipes.hgs import HGS as HGS
from kprune.recipes.kdfs import KDFS as KDFS
from kprune.recipes.manidp import ManiDP as ManiDP
from kprune.recipes.msvfp import MSVFP as MSVFP
from kprune.recipes.network_adjustment import NetworkAdjustment as NetworkAdjustment
from kprune.recipes.orthoreg import OrthoReg as OrthoReg
from kprune.recipes.refit import Refit as Refit
from kprune.recipes.scop import SCOP as SCOP
from kprune.recipes.similarity import Similarity as Similarity
from kprune.recipes.similarity_soft import SimilaritySoft as SimilaritySoft
from kprune.recipes.snpfi import SNPFI as SNPFI

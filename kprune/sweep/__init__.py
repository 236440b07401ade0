"""Try and compare many ways to prune one model."""

from kprune.sweep._study import asked as asked
from kprune.sweep._study import finished as finished
from kprune.sweep.api import METHODS as METHODS
from kprune.sweep.api import best_model as best_model
from kprune.sweep.api import best_trial as best_trial
from kprune.sweep.api import sweep as sweep

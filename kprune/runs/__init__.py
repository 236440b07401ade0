"""Run folders, which record what was asked, what was decided, and the results."""

from kprune.runs.folder import RUN as RUN
from kprune.runs.folder import find_run as find_run
from kprune.runs.record import Record as Record
from kprune.runs.record import folder_of as folder_of
from kprune.runs.record import start as start
from kprune.runs.replay import replay as replay
from kprune.runs.replay import show as show
from kprune.runs.results import annotate as annotate
from kprune.runs.run import Run as Run

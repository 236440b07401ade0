"""The channel graph: which channels must be removed together."""

from kprune.graph.call import Axis as Axis
from kprune.graph.call import Call as Call
from kprune.graph.call import channel_factor as channel_factor
from kprune.graph.channel_graph import ChannelGraph as ChannelGraph
from kprune.graph.channel_graph import Coverage as Coverage
from kprune.graph.channel_graph import Group as Group
from kprune.graph.channel_graph import Member as Member
from kprune.graph.labels import Labels as Labels
from kprune.graph.registry import CompositeRule as CompositeRule
from kprune.graph.registry import Rule as Rule
from kprune.graph.registry import register_rule as register_rule
from kprune.graph.tracer import trace as trace

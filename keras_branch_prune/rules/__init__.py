"""What is known of every layer: one table, and the kinds of rules in it."""

from keras_branch_prune.rules.base import Barrier, Folding, Rule
from keras_branch_prune.rules.channelwise import Channelwise
from keras_branch_prune.rules.joining import Concatenation, Elementwise
from keras_branch_prune.rules.linear import LinearMap, LinearRule
from keras_branch_prune.rules.slicing import SlicingRule
from keras_branch_prune.rules.table import (
    layer_macs,
    output_kernel,
    register_rule,
    rule_for,
)

__all__ = [
    "Barrier",
    "Channelwise",
    "Concatenation",
    "Elementwise",
    "Folding",
    "LinearMap",
    "LinearRule",
    "Rule",
    "SlicingRule",
    "layer_macs",
    "output_kernel",
    "register_rule",
    "rule_for",
]

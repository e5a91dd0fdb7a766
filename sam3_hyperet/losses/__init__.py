"""Training losses.

options        weights and options, without torch
grounding      SAM 3's own losses, and the weighted sum of all
alignment      losses between object queries and texts on a hyperboloid
text_pruning   noun phrases with parts dropped at random
"""

"""Memory of a training step before there is one: a forecast from shapes alone, and the choice that follows from it.

`fake_device` runs code on tensors without memory, `fake_backward` is its backward pass, `forecast` measures a step's
peak on it, and `choice` decides how many prompts go through the model at once and whether activations are recomputed.
"""

"""Controls that HyperET is compared with.

table         every control by name: its installer
matching      the size of a control that comes closest to HyperET's number of parameters
peft_layers   `lora`, `dora` and `ia3`: peft's layers around those that feed the same sites
rotations     `oft` and `boft`: orthogonal rotations of the weights that feed the same sites
tuned         `bitfit` and `ln`: the base's own biases or LayerNorms
"""

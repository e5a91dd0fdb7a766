"""Controls that HyperET is compared with.

lora          low-rank updates of the layers that feed the same sites
bias_tuning   the base's own biases (BitFit)
"""

"""What is done once to a data set before it is used.

- `checks`: every file opened, and what it was expected to be
- `conversion`: label maps rewritten with the labels that are scored
"""

"""Options of a first run on data of one's own, each with its reason, as files to edit.

choices: the options, from what the data set has and from what was measured.
commented: YAML with a comment behind each key.
"""

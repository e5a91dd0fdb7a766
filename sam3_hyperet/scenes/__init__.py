"""The embedded data: scenes drawn from a seed, annotated at three granularities.

- `dataset`: scenes as files
- `drawing`: one scene and the visible mask of everything in it
- `backgrounds`, `objects`, `shapes`: what is drawn
- `concepts`: the concept tree
"""

"""Many lists of numbers in one array, which processes share.

- `ragged`: lists of different lengths
- `polygons`: their extents, and which are rectangles or could be empty
- `positions`: some of many, evenly spread
"""

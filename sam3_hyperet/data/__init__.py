"""Annotated images, the prompts made of them, and their way into SAM 3's batches. Only `loading` imports sam3.

- `annotations`: what every reader returns, and checks of single values
- `coco`, `coco_categories`, `coco_records`, `coco_annotations`: COCO instances; which annotations and categories count
- `coco_json`, `coco_file`, `coco_index`: a large file in arrays, and its index
- `yolo`: Ultralytics' text files of polygons
- `label_maps`, `ade20k`: label maps, of a single channel or coloured
- `class_names`, `colors`: the files that name classes and colours; `label_pairs`: images and their label maps
- `label_values`: which values label maps have, and whether they fit the names in two ways
- `finding`, `image_files`: the finder of files; images known by their content and size
- `options`, `sources`: a data set by its options; what a run opens
- `selection`: images held out, and few shots, by seed and name; `disjoint`: splits without a picture in common
- `phrases`: SA-Co's pairs of an image and a phrase, and noun phrases of annotations
- `subsets`, `vocabularies`: parts of a data set, lists of category names
- `parts`: names that hold an object and its part, objects that training must not see; `wholes`: masks of the objects
- `supercategories`: concepts above categories, as categories more
- `hierarchy`: concept trees
- `prompts`: which concepts an image is prompted with
- `transforms`, `view_masks`, `loading`: images and masks at the model's size, datapoints and batches
- `notes`, `directions`: what a person should know of a data set; names that tell left from right
"""

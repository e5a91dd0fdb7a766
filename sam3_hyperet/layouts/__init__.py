"""Layouts of data sets as tools export them, recognised by their files and what is in these, without opening an image.

- `layout`: what a recogniser returns
- `coco`: COCO's tree and the exports that are COCO files
- `masks`: label maps and coloured masks, as VOC, CVAT, Roboflow and benchmarks lay them out
- `yolo`: Ultralytics' data.yaml, images and labels
- `unread`: formats that are not read, and what to export in their place
- `override`: options as arguments of a command line
- `table`: all layouts; `data.format=auto` made explicit
"""

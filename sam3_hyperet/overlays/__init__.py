"""Pictures of predictions: masks in colours on images, with labels, boxes and legends.

- `colors`: a colour for each phrase, as safe for the colour-blind as a dozen hues can be
- `resizing`: images, masks and label maps at the size at which they are drawn
- `overlay`: masks and exemplar boxes on an image; `labels`: where their labels stand
- `composition`: overlays side by side in one picture, with headings and a legend
- `folder_page`: the page of a folder of overlays, by `folder_page.html.j2`
- `addresses`: images within a page, and masks as PNG files
"""

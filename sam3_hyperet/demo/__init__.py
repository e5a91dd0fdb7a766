"""The demo: a page in the browser on which a picture, phrases and the dial are tried.

- `models`: the base and adapted models, which several people share; features of a picture are computed once
- `prompts`: phrases and boxes as a person enters them
- `session`: what one person looks at, and the answers that are at hand
- `concepts`: the concept tree, and what of a picture each concept and level covers
- `samples`: pictures to begin with: drawn scenes, or those of a folder
- `rendering`: answers as HTML; `masks_file`: masks to download
- `page`: the page itself, the only module that needs Gradio
"""

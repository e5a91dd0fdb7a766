"""ONNX graphs of a model, with or without adapters, for programs that have neither PyTorch nor this package.

- `graphs`: SAM 3's image encoder, text encoder and grounding, each as a module of tensors alone
- `onnx_files`: a graph as an ONNX file; the only module that needs the extra `onnx`, together with
- `check`: outputs of the files in ONNX Runtime, compared with the model's
- `tokenizer`: SAM 3's tokenizer as a file
- `folder`: the folder of all of these and its description, `export.json`
"""

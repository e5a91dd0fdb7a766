"""Layouts in which SAM 3's base weights are published, read into one: SAM 3's own ("official") names.

names                the same weights' names in SAM 3's own files and in Hugging Face transformers
transformers         tensors converted from one to the other, both ways
base_files           the file of a path, a folder or a hub repository, read by official names
transformers_folder  a folder that transformers' `from_pretrained` loads
"""

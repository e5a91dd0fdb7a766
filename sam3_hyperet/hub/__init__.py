"""Adapters on the Hugging Face hub: what an adapter is, its model card, and its way there and back. No torch.

- `adapter_info`: what an adapter file holds
- `run_info`: what the run beside it says: data, training, metrics
- `card`: the model card; `card_metadata`: its head, which the hub checks; `card_tables`: its tables of metrics
- `publishing`: the files of a repository, without local paths; `repository`: push and pull
"""

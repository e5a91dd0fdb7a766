"""Names of the files in a run's folder; without torch."""

from sam3_hyperet.modeling.adapter_source import ADAPTER_FILE, LAST_ADAPTER_FILE

ADAPTER = {"best": ADAPTER_FILE, "last": LAST_ADAPTER_FILE}
WEIGHTS = {"best": "weights.safetensors", "last": "weights_last.safetensors"}
"""Base weights, where a run trained them."""
CONFIG_FILE = "config.yaml"
"""The resolved configuration."""
STATE_FILE = "state.pt"
"""What to go on from."""
HISTORY_FILE = "metrics.jsonl"
"""The values of each step."""
VERSIONS_FILE = "versions.json"
REHEARSAL_FILE = "rehearsal.json"
"""The base's answers with which a run rehearses, as a COCO file."""
METRICS_FILE, REPORT_FILE = "metrics.json", "report.html"
EVALUATION_FILES = (METRICS_FILE, REPORT_FILE, "comparison.md", "comparison.tex")
"""What an evaluation writes."""
ADAPTER_DIGEST = "adapter_tensors_sha256"
"""Key of the metrics for the one adapter that was evaluated, with what `digest.tensors_sha256` returns of its file."""

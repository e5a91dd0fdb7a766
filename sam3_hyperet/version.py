"""The version, importable without torch (setup.cfg reads it)."""

__version__ = "0.1.0"

"""lmstudio-bridge: hand tasks from Claude Code to a local model in LM Studio."""

__version__ = "0.1.0"

"""lmstudio-bridge: hand tasks from Claude Code to a local model in LM Studio."""

__version__ = "0.1.0"

REPOSITORY = "https://github.com/lmstudio-bridge/lmstudio-bridge"
DOCS = f"{REPOSITORY}/blob/main/docs"  # an installed bridge has no docs folder

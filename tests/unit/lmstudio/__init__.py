"""Tests of lmstudio_bridge.llm."""

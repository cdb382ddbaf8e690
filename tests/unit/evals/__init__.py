"""Tests of lmstudio_bridge/evals."""

"""Tests of the thinking between model and tools."""

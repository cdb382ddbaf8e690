"""Tests of the tools below scripts/."""

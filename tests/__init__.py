"""Tests of lmstudio-bridge."""

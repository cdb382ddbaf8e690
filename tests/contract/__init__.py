"""Tests of the bridge as a process: black box."""

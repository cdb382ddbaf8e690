"""Tests with a real engine, real servers and a real browser."""

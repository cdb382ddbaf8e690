"""Tests of the documents, the plugin and the workflows."""

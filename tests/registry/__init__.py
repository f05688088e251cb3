"""Tests of fs.registry."""

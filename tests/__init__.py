"""Tests, in folders that follow the packages."""

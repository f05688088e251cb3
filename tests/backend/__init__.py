"""Backends against directories and real HTTP servers."""

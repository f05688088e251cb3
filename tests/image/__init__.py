"""Trees, sources and bootstrap layers."""

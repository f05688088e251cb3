"""Layers that stay as they are: found again inside by restart points and slices."""

"""Conversion: tar layers, trees, whole images, and how they fail."""

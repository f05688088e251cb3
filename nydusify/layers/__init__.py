"""Layers of images: their sources, the trees that they make, and converted ones that are kept."""

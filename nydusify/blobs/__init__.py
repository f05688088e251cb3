"""Chunks and the blobs that they go to: stored once, shared, put in order, and where they go."""

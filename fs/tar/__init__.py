"""Layers as streams of tar entries, read without trust: decompression, headers, contents."""

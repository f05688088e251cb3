"""RAFS bootstraps, blob files and chunk maps: bytes in, bytes out; imports nothing of ours."""

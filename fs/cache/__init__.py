"""Decoded chunks on local disk: fetched once, verified, shared."""

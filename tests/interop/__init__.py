"""Nydus's own programs against ours: `./dev interop` builds them and runs this."""

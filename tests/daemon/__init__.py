"""Mounts by real daemons on the real kernel."""

"""Real servers and tools that tests start: registries, containerd, nginx."""

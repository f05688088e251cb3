"""lazyrun: containers from lazily loaded images, by namespaces and pivot_root."""

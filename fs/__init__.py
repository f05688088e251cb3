"""The read side of a lazy image: format, registry, backends, cache, tree, drivers, daemon."""

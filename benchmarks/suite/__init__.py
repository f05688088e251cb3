"""The startup suite: from nothing to ready, for each image, way to start it, and network."""

"""Where the bytes of a blob come from: registry, HTTP server, local directory, OCI layout."""

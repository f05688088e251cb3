"""The chunk cache: verified, fetched once, safe across crashes and processes."""

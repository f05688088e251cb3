"""The image builder and the record: what measurements stand on."""

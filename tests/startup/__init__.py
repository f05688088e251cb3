"""The guess of what a start reads, on trees made for it."""

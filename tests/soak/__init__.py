"""A node under load and faults for a long time: what must not grow."""

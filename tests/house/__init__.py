"""What holds for the whole repository: import directions, start-up cost, sizes, docs."""

"""Reading by other people's tools, on every transport."""

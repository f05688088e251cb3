"""The processes behind a mount: supervisor, worker, and the calls that start and stop them."""

"""Trees as the kernel reads them, by each of the drivers."""

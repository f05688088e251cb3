"""How a tree reaches the kernel."""

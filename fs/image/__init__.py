"""One image, served: what its source means, its tree, its contents, what is read of it."""

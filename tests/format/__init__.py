"""The on-disk format against samples, the kernel, other tools and hostile bytes."""

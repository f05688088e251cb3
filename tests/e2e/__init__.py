"""The whole path by the commands that users call, on real images and real servers."""

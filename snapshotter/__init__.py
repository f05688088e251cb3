"""The layers of a container on overlayfs: image, Init layer, writable upper."""

"""What comes out: images in registries and layouts, tars, directories, disk images."""

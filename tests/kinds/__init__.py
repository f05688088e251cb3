"""Every kind of blob that images have: batches, slices of gzip files, tar files."""

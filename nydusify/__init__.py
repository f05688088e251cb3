"""Convert container images to Nydus images: a bootstrap and chunked blobs."""

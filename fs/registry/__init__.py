"""OCI images at rest: references, manifests, and the stores that hold them."""

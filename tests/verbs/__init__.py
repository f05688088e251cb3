"""The verbs of nydusify, each on real images."""

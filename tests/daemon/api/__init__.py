"""The HTTP API and the metrics, on a real daemon."""

"""Nydus images opened, looked into, and put together anew from bootstraps."""

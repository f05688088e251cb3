"""The recipes: one module for each sort of image."""

"""The startup suite and the demo."""

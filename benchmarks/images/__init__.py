"""Images for measurements, built from Debian packages without any public registry."""

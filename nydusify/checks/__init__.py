"""What `nydusify check` finds out about an image, rule by rule."""

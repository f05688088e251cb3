"""Single operations of a mount, each set against native ext4 in the same run."""

"""What the verbs do, one module each: images made of images. The command lines are in `verbs`."""

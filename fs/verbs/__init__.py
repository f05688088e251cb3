"""The verbs of `nydus-fs`, one module each: parsed arguments in, exit code out."""

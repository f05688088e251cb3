"""Exit codes of `lazyrun run` that are not the command's own: docker's."""

OUR_FAILURE = 125
CANNOT_EXECUTE = 126
NOT_FOUND = 127

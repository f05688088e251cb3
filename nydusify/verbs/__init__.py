"""The verbs of nydusify: command lines, what they call, and what they print."""

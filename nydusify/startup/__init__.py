"""What an image's start reads: recorded by running it, or guessed from its files alone.

One module for each source of knowledge; `guess` asks them all.
"""

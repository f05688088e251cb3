"""What an image's start will read, guessed from its files and configuration without running it.

One module for each source of knowledge; `guess` asks them all.
"""

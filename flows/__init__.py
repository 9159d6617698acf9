"""The story: what happens, in order."""

"""The image that delegates (ABDs) are cloned from."""

"""Validation that can be trusted: what turns green, what turns red, who is told, what heals."""

"""How bytes get to a share, a folder or memory, and back."""

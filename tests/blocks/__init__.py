"""What the blocks promise to whoever fills them in."""

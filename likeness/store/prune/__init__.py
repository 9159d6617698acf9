"""What is not needed any more."""

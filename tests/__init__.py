"""Every promise of the product, kept in a test."""

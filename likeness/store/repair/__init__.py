"""Healing, taking back, and the vault: copy what is whole."""

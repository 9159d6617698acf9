"""Becoming a version: receipts, the commit, heads."""

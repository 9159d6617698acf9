"""Tests of the catalog, on real files and with real processes."""

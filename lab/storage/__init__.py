"""Disk data: extents in sparse files, copy-on-write layers, change logs. No API objects in here."""

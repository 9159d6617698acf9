"""Coming back: versions, what the index knows, where data lies, restoring it."""

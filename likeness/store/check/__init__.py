"""Whether all is there and whole: presence, checksum, signature, proof."""

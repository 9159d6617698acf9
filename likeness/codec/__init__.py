"""Chunk ids, compression, sealing, keys and signatures: the only home of cryptography."""

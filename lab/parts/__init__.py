"""The parts of a pool, below what its messages do.

No part imports another: what one needs of another it says as a Protocol of its own, and
`assembly.Parts` puts them together.
"""

"""The memory: one DuckDB file that remembers what the data store holds and when it was proved.

The store is the truth; everything here can be rebuilt from it, but the ages and the history. Every
function takes the `CatalogFile` first and is one short transaction under one lock.
"""

"""The memory: DuckDB, and the only place with SQL."""

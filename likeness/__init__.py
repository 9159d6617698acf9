"""The engine: plain Python that knows neither Prefect nor DuckDB."""

RELEASE = "0.1.0"
"""The release this code is; written into every version record."""

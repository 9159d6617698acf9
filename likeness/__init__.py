"""The engine: plain Python that knows neither Prefect nor DuckDB."""

import os

RELEASE = "0.1.0"
"""The release this code is; written into every version record."""

# numpy brings threads for matrices, which nobody here has; they spin before they sleep.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

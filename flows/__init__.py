"""The story: what happens, in order."""

import blocks.about_prefect  # noqa: F401  # before anything imports Prefect

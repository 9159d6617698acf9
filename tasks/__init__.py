"""The verbs: one step each, with its retries; here engine and catalog meet."""

import blocks.about_prefect  # noqa: F401  # before anything imports Prefect

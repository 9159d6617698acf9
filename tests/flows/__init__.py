"""The whole walk, run for real: a pool of the lab, a Prefect server, processes that get killed."""

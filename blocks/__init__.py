"""The addresses: Prefect blocks, configuration and secrets, nothing else."""

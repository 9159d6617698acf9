"""The command line: a store without Prefect, without a catalog, without a hypervisor."""

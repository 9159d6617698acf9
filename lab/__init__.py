"""The stage set: a simulated XenServer pool, demo disks, fault injection."""

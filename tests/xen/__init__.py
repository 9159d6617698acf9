"""What the XenServer client promises, against the lab's simulated pool."""

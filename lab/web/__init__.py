"""The lab on HTTP: connections, the RPC endpoints, disk transfers, the control interface."""

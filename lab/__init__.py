"""The lab: a simulated XenServer pool that speaks the real protocols.

`lab.pool.Pool` is the simulated pool (objects, disks, sessions), `lab.serving` puts it on sockets,
`python -m lab serve` does so from a shell. Nothing here imports the product, and the product never
imports this package.
"""

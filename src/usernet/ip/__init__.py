"""The network layer: routes, and IPv4 in `v4`."""

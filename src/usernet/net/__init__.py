"""What layers register in (Linux: net/core): namespaces, packet types, protocols, families, offloads, hooks, routes."""

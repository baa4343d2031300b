"""The kernel's side of a NIC: network devices, their namespace, NAPI with GRO, queueing disciplines."""

"""The socket buffer: one packet, from the driver to the socket and back, and why packets are dropped."""

"""The base socket, which buffers, taps, the network layers and the transports all need (Linux: net/core/sock.c)."""

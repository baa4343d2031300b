"""Transport protocols: UDP, raw and ping sockets, TCP in `tcp`."""

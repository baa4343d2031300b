"""The socket families and the sockets that applications hold."""

"""TCP (RFC 9293), in the files that Linux has it in: input, output, timers, handshake, recovery."""

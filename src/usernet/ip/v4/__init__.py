"""IPv4: input, output, forwarding, fragments, ICMP, IGMP, addresses."""

"""The link layer: neighbours and ARP."""

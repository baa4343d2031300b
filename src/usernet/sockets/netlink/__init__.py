"""Netlink: how programs ask a namespace about its devices, addresses, routes and sockets, and change them."""

"""Tests of IPv4, each host on a driver that only records."""

"""Tests of the socket buffer and its queue."""

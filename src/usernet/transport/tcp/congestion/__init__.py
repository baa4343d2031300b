"""Congestion controls, each a class behind one registry."""

"""Tests of the queueing disciplines."""

"""Tests of the ground floor: time, order, waiting, memory, settings, counters."""

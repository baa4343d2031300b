"""Tests of the congestion controls."""

"""Tests of what layers register in."""

"""Queueing disciplines: what a device sends next, and what it drops when its queue is full (Linux: net/sched)."""

"""Time and order: clocks, timers, the softirq run loop, wait queues, sysctls, counters, tracepoints, errors.

The ground floor. It knows nothing of packets.
"""

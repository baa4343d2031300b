"""The log: what whoever runs a stack should hear of (Linux: printk). Silent are packets dropped and errors that a call
raises; those are counted, or reach the one who called."""

from __future__ import annotations


def warning(message: str, *arguments: object) -> None:
    """Warn, by the logger "usernet". message: as in printf, with `arguments`."""
    # Loaded when there is something to say: it is a twentieth of what a stack's import takes.
    import logging

    logging.getLogger("usernet").warning(message, *arguments)

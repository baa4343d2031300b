"""Unmodified programs on a stack: their network system calls are taken, and carried out there (seccomp_unotify(2))."""

"""A stack for other processes: as a service, and for programs that know nothing of it."""

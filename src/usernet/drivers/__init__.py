"""Drivers: one file a NIC. Each is loaded when it is first named, as `usernet.drivers.Tap`."""

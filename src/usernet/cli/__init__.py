"""The `usernet` command."""

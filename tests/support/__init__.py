"""What tests import: packet factories, the kernel's network namespaces, the leak check."""

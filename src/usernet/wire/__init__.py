"""Headers as bytes: one file a protocol, one function to unpack a header into integers and one to build it."""

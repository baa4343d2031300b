"""packetdrill: conformance scripts, run against a stack on virtual time.

The way of a script: `lexer` (text to tokens), `parser` (tokens to `ast`), `config` (its options), then `runner`, which
goes through the events in order and asks a `Target` for everything that touches a stack.
"""

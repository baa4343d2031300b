"""Fuzz targets: bytes of any content, into every parser and every way into a stack.

Each target is a plain function `one_input(data: bytes) -> None`, listed in targets.py: what it raises is a bug. Under
pytest each runs its seeds (corpus/NAME/*) and mutations of them; under atheris (usernet[fuzz]) as long as wished:

    python -m tests.fuzz.run NAME --seconds 60
"""

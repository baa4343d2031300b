"""The tests of usernet; the test of `src/usernet/x/y.py` is `tests/x/test_y.py`."""

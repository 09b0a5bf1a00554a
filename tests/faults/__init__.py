"""The fault matrix: each of twelve faults at three temperatures, on the real proxy and the real backend.

`expected.yaml` says what the caller is to be told, `test_matrix.py` measures it. A cell proves that its
fault fired, leaves nothing behind, and ends with a good request. `python -m tests.faults` prints both.
"""

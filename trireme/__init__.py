"""The embedded stack: one machine, no Docker, no root, no GPU.

`bootstrap` and `machine` run on whatever `python3` the user has, so they use the standard library alone and
syntax that Python 3.6 can parse; everything else runs in the project's own virtual environment.
"""

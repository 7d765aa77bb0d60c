"""A pod that owns requests: reads them over HTTP, has its engine run them, and streams the answers.

`python -m baton.decode` starts one. Imports no torch: the engine's ranks are processes of their own.
"""

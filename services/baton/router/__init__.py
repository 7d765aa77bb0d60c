"""The one address that clients talk to: reads requests, places them, and relays what pods answer.

`python -m baton.router` starts one. Never imports torch, NIXL or the engine.
"""

"""The one address that clients talk to: understands a request, places it, relays what its pod answers."""

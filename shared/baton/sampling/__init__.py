"""Choosing tokens: what a row asks for, the noise, and the sampler. Import the modules themselves."""

__all__: list[str] = []

"""Cached prefixes that workers read out of each other's pools instead of computing them."""

from baton.lending.lending import Lending
from baton.lending.worth import Rates, worth_reading

__all__ = ["Lending", "Rates", "worth_reading"]

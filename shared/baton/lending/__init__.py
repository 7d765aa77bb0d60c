"""Cached prefixes that workers read out of each other's pools instead of computing them."""

from baton.lending.lending import Lending
from baton.lending.meters import measure
from baton.lending.worth import Rates, worth_reading

__all__ = ["Lending", "Rates", "measure", "worth_reading"]

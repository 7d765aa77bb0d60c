"""Who gets in, and when: keys, their limits, and the queue before the pods."""

from baton.router.entry.admission import Admission
from baton.router.entry.gate import Gate
from baton.router.entry.keys import ANYBODY, Key, KeyRing
from baton.router.entry.limits import KeyLimits

__all__ = ["ANYBODY", "Admission", "Gate", "Key", "KeyLimits", "KeyRing"]

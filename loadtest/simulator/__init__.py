"""A fleet in virtual time: hundreds of pods that take as long as real ones were measured to, each with a
real prefix cache, behind routers that run the real placement and see everything late.

    trace ──► routers (placement, index, loads) ──► decode pods ──► prefill pods
                 ▲ events, beats, loads: late ◄──────────┴──────────────┘

Nothing waits and nothing is patched: a minute of a fleet takes seconds, and the same seed gives the same
figures. It answers questions about placement, not about engines.
"""

from loadtest.simulator.fleet import FleetShape
from loadtest.simulator.report import Summary, table
from loadtest.simulator.run import POLICIES, simulate
from loadtest.simulator.traces import TRACES, Trace

__all__ = ["POLICIES", "TRACES", "FleetShape", "Summary", "Trace", "simulate", "table"]

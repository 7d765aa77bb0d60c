"""What a process says of itself: log lines and metrics. Torch-free; knows nothing of what it measures."""

from baton.telemetry import buckets
from baton.telemetry.logs import LogSettings, log_fields, logging_to
from baton.telemetry.metrics import CONTENT_TYPE, Metrics
from baton.telemetry.tally import Tally

__all__ = ["CONTENT_TYPE", "LogSettings", "Metrics", "Tally", "buckets", "log_fields", "logging_to"]

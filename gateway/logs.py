"""Log records as JSON, one a line, for machines to collect."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

from gateway import tracing

FIELDS = "fields"
"""Name of the ``extra`` that holds a record's own fields, as a mapping."""


class JsonLines(logging.Formatter):
    """Renders a record with its time (RFC 3339, UTC) and, within a request, the request's ids."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record as one line."""
        line: dict[str, Any] = {
            "time": _rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if trace := tracing.current():
            line |= {"request_id": trace.request_id, "trace_id": trace.trace_id}
        line |= getattr(record, FIELDS, {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(level: str) -> None:
    """Write the whole process's log to standard error, from ``level`` on."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)


def _rfc3339(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

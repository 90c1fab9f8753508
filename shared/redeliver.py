"""`python -m shared.redeliver`: delivers the pending outbox entries, configured like a worker.

Exits with 1 if any are still pending or are set aside, which the log names.
"""

from __future__ import annotations

import sys

from shared.jobs.delivery.outbox import open_outbox
from shared.jobs.delivery.redelivery import Redelivery
from shared.settings import SettingsError, load_settings
from shared.storage import open_storage
from shared.telemetry import configure_logging, logger
from shared.webhooks import Webhook


def main() -> int:
    """Returns the exit code: 0 if no entry is pending any more, and none is set aside."""
    configure_logging("INFO")  # until the configured level is known
    try:
        settings = load_settings()
        configure_logging(settings.log_level)
        result = Redelivery(open_outbox(settings), open_storage(settings), Webhook(settings)).run()
    except SettingsError as error:
        sys.exit(f"Nothing was delivered. {error}")
    logger().info("outbox", delivered=result.delivered, pending=result.pending, rejected=result.rejected)
    return 1 if result.pending or result.rejected else 0


if __name__ == "__main__":
    sys.exit(main())

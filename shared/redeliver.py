"""`python -m shared.redeliver`: delivers what waits in the outbox, configured as a worker is. Ends with 1 when something still waits."""

from __future__ import annotations

import sys

from shared.jobs.delivery.outbox import Outbox
from shared.jobs.delivery.redelivery import Redelivery
from shared.settings import SettingsError, load_settings
from shared.storage import open_storage
from shared.telemetry import configure_logging, logger
from shared.webhooks import Webhook


def main() -> int:
    """Returns 0 when nothing waits any more."""
    configure_logging("INFO")  # until it is known what the operator wants
    try:
        settings = load_settings()
        configure_logging(settings.log_level)
        outbox = Outbox(settings.outbox, max_bytes=settings.outbox_max_bytes, max_age=settings.outbox_max_age)
        result = Redelivery(outbox, open_storage(settings), Webhook(settings)).run()
    except SettingsError as error:
        sys.exit(f"Nothing was delivered. {error}")
    logger().info("outbox", delivered=result.delivered, pending=result.pending)
    return 1 if result.pending else 0


if __name__ == "__main__":
    sys.exit(main())

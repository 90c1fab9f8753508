"""How a job's result reaches storage and the callback receiver, at once or later through the outbox."""

"""Pictures and clips: opened with limits, encoded the same way every time."""

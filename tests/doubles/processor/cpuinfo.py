"""What the SDK asks about the processor, for a debugger that nothing here starts. The real one takes 1.2 s of each start to measure it."""


def get_cpu_info() -> dict[str, str]:
    """The one fact that the SDK reads."""
    return {"brand_raw": "a processor"}

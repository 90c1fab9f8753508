"""A stub of py-cpuinfo. The SDK imports it for an unused debugger, and the real module measures the CPU for 1.2 s at every start."""


def get_cpu_info() -> dict[str, str]:
    """The one fact that the SDK reads."""
    return {"brand_raw": "a processor"}

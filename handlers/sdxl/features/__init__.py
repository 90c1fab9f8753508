"""Features that a request may enable on the SDXL pipeline for one job; `handlers.sdxl.pipeline` lists them."""

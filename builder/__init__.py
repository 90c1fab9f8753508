"""Build-time commands: container images, weights, schemas and generated documentation. Nothing here is imported by a worker."""

# All three images: docker buildx bake. One of them: docker buildx bake sdxl. What would be built: docker buildx bake --print.

# The tag. Never `latest`: RunPod keeps what it has pulled under a tag.
variable "VERSION" {
  default = "0.1.0"
}

# Where images are pushed to, such as ghcr.io/you.
variable "REGISTRY" {
  default = ""
}

# none: a volume or RunPod's cached models bring them; baked: they are downloaded while building.
variable "WEIGHTS" {
  default = "none"
}

# `gha` keeps layers in GitHub's cache, each target in a scope of its own.
variable "CACHE" {
  default = ""
}

group "default" {
  targets = ["worker"]
}

function "tags" {
  params = [handler]
  result = [REGISTRY == "" ? "${handler}-worker:${VERSION}" : "${REGISTRY}/${handler}-worker:${VERSION}"]
}

function "cache_from" {
  params = [handler]
  result = CACHE == "gha" ? ["type=gha,scope=${handler}"] : []
}

function "cache_to" {
  params = [handler]
  result = CACHE == "gha" ? ["type=gha,scope=${handler},mode=max"] : []
}

# One target for each handler: `docker buildx bake sdxl`.
target "worker" {
  name       = handler
  matrix     = { handler = ["sdxl", "wan", "chat"] }
  context    = "."
  dockerfile = "Dockerfile"
  platforms  = ["linux/amd64"]
  args = {
    HANDLER = handler
    VERSION = VERSION
    WEIGHTS = WEIGHTS
  }
  tags       = tags(handler)
  cache-from = cache_from(handler)
  cache-to   = cache_to(handler)
  secret     = ["id=hf_token,env=HF_TOKEN"]
}

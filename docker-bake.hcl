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
  targets = ["sdxl", "wan", "chat"]
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

target "worker" {
  context    = "."
  dockerfile = "Dockerfile"
  platforms  = ["linux/amd64"]
  args = {
    VERSION = VERSION
    WEIGHTS = WEIGHTS
  }
  secret = ["id=hf_token,env=HF_TOKEN"]
}

target "sdxl" {
  inherits   = ["worker"]
  args       = { HANDLER = "sdxl" }
  tags       = tags("sdxl")
  cache-from = cache_from("sdxl")
  cache-to   = cache_to("sdxl")
}

target "wan" {
  inherits   = ["worker"]
  args       = { HANDLER = "wan" }
  tags       = tags("wan")
  cache-from = cache_from("wan")
  cache-to   = cache_to("wan")
}

target "chat" {
  inherits   = ["worker"]
  args       = { HANDLER = "chat" }
  tags       = tags("chat")
  cache-from = cache_from("chat")
  cache-to   = cache_to("chat")
}

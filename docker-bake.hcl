# All images: docker buildx bake. One image: docker buildx bake sdxl. Dry run: docker buildx bake --print.

# The tag. Never `latest`, because RunPod caches images by tag.
variable "VERSION" {
  default = "0.1.0"
}

# The registry and namespace to push to, such as ghcr.io/you.
variable "REGISTRY" {
  default = ""
}

# none: weights come from a volume or RunPod's model cache; baked: they are downloaded during the build.
variable "WEIGHTS" {
  default = "none"
}

# `gha` caches layers in GitHub's cache, with one scope per target.
variable "CACHE" {
  default = ""
}

group "default" {
  targets = ["worker", "chat-vllm"]
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

# The chat worker with vLLM. Its weights come from a volume or RunPod's model cache.
target "chat-vllm" {
  context    = "."
  dockerfile = "Dockerfile"
  target     = "chat-vllm"
  platforms  = ["linux/amd64"]
  args       = { VERSION = VERSION }
  tags       = tags("chat-vllm")
  cache-from = cache_from("chat-vllm")
  cache-to   = cache_to("chat-vllm")
}

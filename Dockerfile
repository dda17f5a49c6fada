# Interpole on a CPU: merges, asks, sweeps small models, serves. The folder you work in is /work:
#   docker build --tag interpole .
#   docker run --rm --interactive --tty --volume "$PWD:/work" interpole demo
FROM python:3.11 AS build
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE CHANGELOG.md MANIFEST.in ./
COPY src src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim
COPY constraints.txt /wheels/
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
        --constraint /wheels/constraints.txt "$(ls /wheels/*.whl)[all]" \
    && useradd --create-home --uid 10001 interpole \
    && mkdir /work \
    && chown interpole /work
USER 10001
WORKDIR /work
ENTRYPOINT ["interpole"]
CMD ["--help"]

# docker build -t asem --build-arg VERSION=0.1.0 .
# docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/data" asem predict cell.zarr --model mitochondria-cf-5nm
# With a CUDA GPU: docker run --gpus all ...; the browser viewer: -p 8080:8080 ... view cell.zarr --bind 0.0.0.0 --port 8080 --no-browser
# Where that image cannot be fetched, any with `python` 3.11 to 3.13 and venv will do: --build-arg BASE=...
ARG BASE=python:3.12-slim
FROM ${BASE} AS build
ARG VERSION=0.1.0
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY asem_core asem_core
COPY plugins plugins
COPY registry registry
# The version is that of the release: git's history is not copied.
RUN python -m venv /opt/asem \
    && SETUPTOOLS_SCM_PRETEND_VERSION="$VERSION" \
       /opt/asem/bin/pip install --no-cache-dir -c constraints.txt '.[classifier,codecs,hdf5,mesh,mrc,precomputed,s3,tensorboard,view]'

FROM ${BASE}
COPY --from=build /opt/asem /opt/asem
ENV PATH=/opt/asem/bin:$PATH NUMBA_CACHE_DIR=/tmp/numba XDG_CACHE_HOME=/tmp/cache
WORKDIR /data
ENTRYPOINT ["asem"]
CMD ["--help"]

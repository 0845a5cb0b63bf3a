# syntax=docker/dockerfile:1
# tests/acceptance/test_dockerfile.py executes the steps of the first stage, for no container engine runs there.

FROM python:3.13-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY reconciler reconciler
RUN python -m venv /opt/reconciler
RUN /opt/reconciler/bin/python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .
RUN /opt/reconciler/bin/python -m pip install --no-cache-dir --constraint constraints.txt /wheels/*.whl


FROM python:3.13-slim-bookworm
LABEL org.opencontainers.image.title="reconciler" \
      org.opencontainers.image.description="GitOps for Ansible batches: bounded waves, a true outcome for every host" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git gpg openssh-client tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 reconciler \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/reconciler --shell /usr/sbin/nologin reconciler \
    && install --directory --owner 10001 --group 10001 --mode 0750 /var/lib/reconciler
COPY --from=build /opt/reconciler /opt/reconciler
ENV PATH=/opt/reconciler/bin:$PATH \
    HOME=/var/lib/reconciler \
    LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 \
    RECONCILER_STATE_DIR=/var/lib/reconciler
# By number, so that an orchestrator can prove that it is not root.
USER 10001:10001
WORKDIR /var/lib/reconciler
VOLUME /var/lib/reconciler
EXPOSE 8440
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8440/healthz', timeout=4)"]
ENTRYPOINT ["tini", "--", "reconciler"]
# Mount the source of manifests, read only, at /source.
CMD ["run", "/source", "--listen", "0.0.0.0:8440"]

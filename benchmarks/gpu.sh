#!/usr/bin/env bash
# headlab on one card, in eight minutes:  bash benchmarks/gpu.sh OUT.json [--minutes 8] [--tiny] [--device cuda]
#
# Takes PYTHON, or the first Python that can already run headlab (.venv/bin/python, then python3); where none can, it makes
# .venv/card with what the system's Python has (torch for the card, above all) and installs what headlab needs into it.
# `bash benchmarks/gpu.sh --help` says what else it needs. Whatever happens, OUT.json says so.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
here=$PWD
export PYTHONPATH="$here/src:$here${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONWARNINGS=ignore
export PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True} HEADLAB_TYPECHECK=0

out=""
for word in "$@"; do case $word in -*) ;; *.json) out=$word; break ;; esac; done

fits() { [ -x "$(command -v "$1")" ] && "$1" -c 'import torch, transformers, pandas, pydantic, headlab' 2>/dev/null; }

give_up() {
  echo "$1" >&2
  case ${out:-} in ?*) printf '{"settings": {"device": "cuda"}, "entries": [], "card": {}, "failed": "%s"}\n' "$1" >"$out" ;; esac
  exit 2
}

python=""
for one in ${PYTHON:-} .venv/bin/python python3 .venv/card/bin/python; do
  if fits "$one"; then python=$one; break; fi
done
if [ -z "$python" ]; then
  echo "making .venv/card with what headlab needs ..." >&2
  base=${PYTHON:-python3}
  "$base" -m venv --system-site-packages .venv/card || give_up "$base makes no virtual environment (python3-venv is missing?)"
  .venv/card/bin/python -m pip install -q --disable-pip-version-check -e . || give_up "pip could not install what headlab needs"
  python=.venv/card/bin/python
  fits "$python" || give_up "headlab cannot be imported after its installation"
fi
exec "$python" -m benchmarks.card "$@"

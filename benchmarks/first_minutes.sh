#!/usr/bin/env bash
# From the name to a merged model, an answer and the demo, timed step by step:
#   bash benchmarks/first_minutes.sh dist/interpole-*.whl      (or the name, once it is on PyPI: first_minutes.sh interpole)
# Environment, home and caches are new, and nothing of this repository is seen. In a container:
#   docker run --rm --volume "$PWD:/in:ro" python:3.11-slim bash /in/benchmarks/first_minutes.sh /in/dist/interpole-*.whl
# pip reads PIP_CONSTRAINT, PIP_EXTRA_INDEX_URL and the like; without the index of CPU builds torch brings CUDA, gigabytes more.
set -euo pipefail
what=$1
[ ! -f "$what" ] || what=$(realpath "$what")
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"
unset PYTHONPATH PYTHONDONTWRITEBYTECODE
export HOME=$place/home PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
mkdir home
step() { # NAME COMMAND…: run it, and print a row of the table
  local name=$1 began=$EPOCHREALTIME times TIMEFORMAT='%U %S'
  shift
  times=$({ time "$@" >"$place/said" 2>&1 || { cat "$place/said" >&2; exit 1; }; } 2>&1) || { echo "$times" >&2; exit 1; }
  python3 - "$name" "$began" "$EPOCHREALTIME" "$start" $times <<'END'
import sys
name, *numbers = sys.argv[1:]
began, ended, start, user, system = map(float, numbers)
print(f"| {name} | {ended - began:.1f} | {ended - start:.1f} | {user + system:.1f} |", flush=True)
END
}
echo "| step | wall s | since the start | CPU s |"
echo "| --- | ---: | ---: | ---: |"
start=$EPOCHREALTIME
step "an environment" python3 -m venv env
step "\`pip install interpole\`" env/bin/pip install --quiet "$what"
step "where the tiny pair lies (first start: Python compiles)" env/bin/python -c "
from interpole.lab import shipped
pair = shipped()
print(pair.instruct, pair.thinking)"
read -r instruct thinking <"$place/said"
step "\`interpole doctor\`" env/bin/interpole doctor "$instruct" "$thinking"
step "\`interpole merge\`: a merged model" env/bin/interpole merge "$instruct" "$thinking" --lambda 0.6 --out merged-0.6
step "\`pip install 'interpole[all]'\`" env/bin/pip install --quiet "${what}[all]"
step "an answer of the merged model" env/bin/python -c "
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = AutoModelForCausalLM.from_pretrained('merged-0.6'), AutoTokenizer.from_pretrained('merged-0.6')
chat = [{'role': 'user', 'content': '34 a-1 b-5 c*2 = ?'}]
prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors='pt', return_dict=True)
out = model.generate(**prompt, max_new_tokens=128, do_sample=False)
answer = tokenizer.decode(out[0], skip_special_tokens=True)
print(answer)
assert '56' in answer, answer"
cat "$place/said" | tail -n 12 >&2
step "\`interpole demo\`" env/bin/interpole demo -o demo

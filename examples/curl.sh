#!/bin/sh
# Uploads a file with curl: creates the upload, loses the connection in the middle, asks for the offset, continues, and
# prints the answer of the API. The exit code is 0 if the answer is a success.
#
#   sh examples/curl.sh http://127.0.0.1:8080/files/big.bin big.bin PUT
set -eu
target=${1:?usage: curl.sh URL FILE [METHOD]}
file=${2:?usage: curl.sh URL FILE [METHOD]}
method=${3:-POST}
size=$(($(wc -c <"$file")))

scratch=$(mktemp -d)
trap 'rm -r "$scratch"' EXIT
trap 'exit 1' INT TERM

say() { echo "$*" >&2; }

# request ARGUMENT...: one request; the response's head and body are in the scratch directory.
request() { curl -sS -D "$scratch/head" -o "$scratch/body" "$@"; }

# field NAME: the value of a field of the last response. Over HTTP/2 the names are in lower case.
field() {
  tr -d '\r' <"$scratch/head" | awk -v name="$1: " 'index(tolower($0), tolower(name)) == 1 { value = substr($0, length(name) + 1) } END { print value }'
}

# 1. Create the upload with an empty body. "?0" means that bytes follow; Location is where to send them.
request -X "$method" "$target" -H 'Upload-Complete: ?0' -H "Upload-Length: $size" -d '' \
  -H 'Content-Type: application/octet-stream' -H "Content-Disposition: attachment; filename=\"$(basename "$file")\""
upload=$(field Location)
if [ "$(field Upload-Complete)" != '?0' ] || [ -z "$upload" ]; then
  say "$target takes no resumable uploads. It answers:" "$(head -n 1 "$scratch/head")"
  exit 1
fi
say "The upload is created."

# 2. Append everything, slowly, and lose the connection after one second. "?1" means that the upload ends with this body.
request -X PATCH "$upload" -H 'Upload-Offset: 0' -H 'Upload-Complete: ?1' -H 'Content-Type: application/partial-upload' \
  -T "$file" --limit-rate $((size / 4 + 1)) --max-time 1 || say "The connection is lost."

# 3. Ask for the offset and send the rest from there, until it is complete.
pause=1
while :; do
  if request -I "$upload"; then
    offset=$(field Upload-Offset)
    # Without an offset, the upload no longer exists.
    [ -n "$offset" ] || { cat "$scratch/head" >&2 && exit 1; }
    say "The upload goes on at byte $offset of $size."
    # For an upload that is already complete, an empty append returns the kept answer.
    if tail -c "+$((offset + 1))" "$file" | request -X PATCH "$upload" -H "Upload-Offset: $offset" \
      -H 'Upload-Complete: ?1' -H 'Content-Type: application/partial-upload' -T -; then
      # 4. "?1" in the response means that this is the answer of the API.
      [ "$(field Upload-Complete)" != '?1' ] || break
      # 409, 429 and 5xx permit another try; any other refusal is final.
      grep -Eq '^HTTP/[0-9.]+ (409|429|5..)' "$scratch/head" || { cat "$scratch/head" "$scratch/body" >&2 && exit 1; }
    fi
  fi
  say "Another try follows in $pause s."
  sleep $pause
  pause=$((pause < 30 ? pause * 2 : 30))
done
say "The API answers: $(tr -d '\r' <"$scratch/head" | grep '^HTTP/' | tail -n 1)"
cat "$scratch/body"
grep -Eq '^HTTP/[0-9.]+ 2' "$scratch/head"

#!/bin/sh
# A job, its events, its result. Run again it is the same job: sh examples/clients/curl.sh
set -eu
url=${ONCEFLEET_URL:-http://127.0.0.1:3000}
auth="Authorization: Bearer ${ONCEFLEET_TOKEN:-unused}"

job=$(curl -sS --fail-with-body --retry 5 "$url/v1/jobs/summarize" -H "$auth" \
  -H 'Content-Type: application/json' -H 'Idempotency-Key: summary-of-curl' -d '{"text":"A text of curl"}')
id=$(printf %s "$job" | sed 's/.*"id":"\([^"]*\)".*/\1/')
curl -sSN --fail-with-body "$url/v1/jobs/$id/events" -H "$auth" -H 'Accept: text/event-stream'
curl -sS --fail-with-body "$url/v1/jobs/$id" -H "$auth"

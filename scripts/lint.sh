#!/bin/sh
# gofmt, go vet, staticcheck and govulncheck. The tools are pinned in tools/go.mod.
set -eu
fail=0

unformatted=$(gofmt -l .)
if [ -n "$unformatted" ]; then
	echo "gofmt would change:"
	echo "$unformatted"
	fail=1
fi
for tags in "" e2e purego fabric; do
	go vet -tags "$tags" ./... || fail=1
done
(cd lease/sqlstore/cockroach && go vet ./...) || fail=1
go tool -modfile=tools/go.mod staticcheck -tags e2e,fabric ./... || fail=1
go mod verify >/dev/null || fail=1

# govulncheck asks vuln.go.dev. Without a way there nothing is known of the
# dependencies, which is said and does not fail the build.
status=0
go tool -modfile=tools/go.mod govulncheck ./... >"${TMPDIR:-/tmp}/govulncheck.$$" 2>&1 || status=$?
if [ "$status" = 3 ]; then
	cat "${TMPDIR:-/tmp}/govulncheck.$$"
	fail=1
elif [ "$status" != 0 ]; then
	echo "govulncheck: VULNERABILITIES WERE NOT CHECKED; its database is not reachable:"
	tail -n 1 "${TMPDIR:-/tmp}/govulncheck.$$"
fi
rm -f "${TMPDIR:-/tmp}/govulncheck.$$"
exit $fail

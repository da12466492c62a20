#!/bin/sh
# Installs the Debian packages that the tests and the demo use
# (gcc is for the race detector), and says so. It
# does nothing where they are installed already. No daemon of theirs is started:
# the tests start their own, in network namespaces.
# With "bench" it installs the servers, too, that benchmarks compare with.
set -eu
packages="gcc libc6-dev iproute2 procps util-linux mount e2fsprogs isc-dhcp-client isc-dhcp-relay dhcpcd-base dibbler-client wide-dhcpv6-client systemd dnsmasq-base nftables softhsm2 bind9 bind9-dnsutils ldnsutils unbound postfix swaks libio-socket-inet6-perl opendkim opendkim-tools miltertest freeradius radsecproxy openssl curl m4 libwrap0 postgresql"
[ "${1-}" != bench ] || packages="$packages kea-dhcp6-server isc-dhcp-server"

missing=""
for p in $packages; do
	dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
# Sendmail cannot be installed beside Postfix: its files are unpacked for the tests.
sendmail=bin/sendmail
unpack_sendmail() {
	[ ! -x $sendmail/usr/libexec/sendmail/sendmail ] || return 0
	echo "Unpacking Debian's Sendmail into $sendmail"
	rm -rf $sendmail && mkdir -p $sendmail
	(
		cd $sendmail
		get="apt-get -qq -o APT::Sandbox::User=root download sendmail-bin sendmail-cf"
		$get || { apt-get -qq update && $get; }
		for f in *.deb; do dpkg -x "$f" . && rm "$f"; done
	)
}

[ -n "$missing" ] || { unpack_sendmail; exit 0; }

if [ "$(id -u)" != 0 ]; then
	echo "These Debian packages are missing:$missing" >&2
	echo "Install them as root (apt-get install$missing), or run make as root." >&2
	exit 1
fi
echo "Installing Debian packages:$missing"
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
	trap 'rm -f "$policy"' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
# shellcheck disable=SC2086
apt-get -qq install -y --no-install-recommends $missing >/dev/null
unpack_sendmail

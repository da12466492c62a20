package fabnet

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Members get their certificates from Fabric CA as they do in a real network: each
// organization runs a server with two authorities, one for its members and one for
// TLS; a registrar registers each member, and the member enrolls. The files are laid
// out as cryptogen lays them out, so that the rest of the package need not know which
// of the two made them.

// The two authorities of an organization's server. The first is the server's default.
const (
	memberCA = "ca"
	tlsCA    = "tlsca"
)

const caConfig = `version: 1.5.15
ca: {name: {{ .Name }}}
crl: {expiry: 24h}
csr:
  cn: {{ .Name }}.{{ .Domain }}
  hosts: [localhost, 127.0.0.1]
  ca: {expiry: 131400h, pathlength: 0}
registry:
  maxenrollments: -1
  identities:
    - name: registrar
      pass: {{ .Password }}
      type: client
      attrs: {hf.Registrar.Roles: "*", hf.Registrar.DelegateRoles: "*", hf.Registrar.Attributes: "*", hf.Revoker: true, hf.GenCRL: true}
db: {type: sqlite3, datasource: fabric-ca-server.db}
signing:
  default: {usage: [digital signature], expiry: 8760h}
  profiles:
    tls: {usage: [signing, key encipherment, server auth, client auth, key agreement], expiry: 8760h}
bccsp: {default: SW, sw: {hash: SHA2, security: 256}}
`

// nodeOUs says by which organizational unit of a certificate Fabric knows what a
// member is.
const nodeOUs = `NodeOUs:
  Enable: true
  ClientOUIdentifier: {Certificate: cacerts/{{ .File }}, OrganizationalUnitIdentifier: client}
  PeerOUIdentifier: {Certificate: cacerts/{{ .File }}, OrganizationalUnitIdentifier: peer}
  AdminOUIdentifier: {Certificate: cacerts/{{ .File }}, OrganizationalUnitIdentifier: admin}
  OrdererOUIdentifier: {Certificate: cacerts/{{ .File }}, OrganizationalUnitIdentifier: orderer}
`

// member is one who enrolls.
type member struct {
	name string // its certificate's
	kind string // Fabric CA's type: peer, orderer, admin, client
	dir  string // for its msp and tls
	tls  bool   // whether it serves
}

// authority is the certificate authority of one organization.
type authority struct {
	net      *Network
	domain   string
	dir      string // of the organization's keys
	home     string // of the server and of its clients
	address  string
	password string // the registrar's
}

// enrollAll makes the keys of all organizations with Fabric CA. The servers end when
// it is done.
func (n *Network) enrollAll() error {
	orderers := make([]member, len(n.orderers))
	for i, o := range n.orderers {
		orderers[i] = member{name: o.Host + ".orderer.gid", kind: "orderer", dir: n.ordererDir(o.Host), tls: true}
	}
	if err := n.enroll("orderer", "orderer.gid", n.path("crypto/ordererOrganizations/orderer.gid"), orderers); err != nil {
		return err
	}
	for _, o := range n.Organizations {
		if err := n.enroll(o.Name, o.Domain, o.dir(), []member{
			{name: "peer0." + o.Domain, kind: "peer", dir: o.peerDir(), tls: true},
			{name: "User1@" + o.Domain, kind: "client", dir: filepath.Join(o.dir(), "users", "User1@"+o.Domain)},
			{name: "Admin@" + o.Domain, kind: "admin", dir: filepath.Join(o.dir(), "users", "Admin@"+o.Domain)},
		}); err != nil {
			return err
		}
	}
	return nil
}

func (n *Network) enroll(org, domain, dir string, members []member) error {
	a := &authority{net: n, domain: domain, dir: dir, home: n.path("ca", org), password: rand.Text()}
	server, err := a.serve(org)
	if err != nil {
		return err
	}
	defer server.Kill()
	for _, name := range []string{memberCA, tlsCA} {
		if err := retry(20*time.Second, func() error { return a.enroll(name, "registrar", a.password, a.registrar(name), nil) }); err != nil {
			return fmt.Errorf("%w; the server wrote:\n%s", err, server.Log())
		}
	}
	for _, m := range members {
		if err := a.member(m); err != nil {
			return fmt.Errorf("%s: %w; the server wrote:\n%s", m.name, err, server.Log())
		}
	}
	// What others know of the organization.
	for from, to := range map[string]string{
		a.certificate(memberCA): filepath.Join(dir, "ca", memberCA+"."+domain+"-cert.pem"),
		a.certificate(tlsCA):    filepath.Join(dir, "tlsca", tlsCA+"."+domain+"-cert.pem"),
	} {
		if err := copyFile(from, to); err != nil {
			return err
		}
	}
	return a.msp(filepath.Join(dir, "msp"))
}

// serve starts the organization's server. Its password is in a file, since others see
// the arguments of a process.
func (a *authority) serve(org string) (*Process, error) {
	for _, name := range []string{memberCA, tlsCA} {
		if err := os.MkdirAll(a.server(name), 0o700); err != nil {
			return nil, err
		}
		file, err := filepath.Rel(a.net.o.Dir, filepath.Join(a.server(name), "fabric-ca-server-config.yaml"))
		if err != nil {
			return nil, err
		}
		if err := a.net.write(file, caConfig, map[string]string{"Name": name, "Domain": a.domain, "Password": a.password}); err != nil {
			return nil, err
		}
	}
	var err error
	if a.address, err = freeAddress(); err != nil {
		return nil, err
	}
	operations, err := freeAddress()
	if err != nil {
		return nil, err
	}
	return a.net.process("ca-"+org, func() *exec.Cmd {
		c := exec.Command(filepath.Join(a.net.o.Fabric, "fabric-ca-server"), "start", "--home", a.server(memberCA), "--address", "127.0.0.1", "--port", port(a.address),
			"--tls.enabled", "--cafiles", filepath.Join(a.server(tlsCA), "fabric-ca-server-config.yaml"), "--loglevel", "warning")
		c.Env = append(os.Environ(), "FABRIC_CA_SERVER_OPERATIONS_LISTENADDRESS="+operations)
		return c
	})
}

func (a *authority) server(ca string) string    { return filepath.Join(a.home, "server", ca) }
func (a *authority) registrar(ca string) string { return filepath.Join(a.home, "registrar", ca) }

// certificate is the file of an authority's own certificate.
func (a *authority) certificate(ca string) string { return filepath.Join(a.server(ca), "ca-cert.pem") }

// client runs fabric-ca-client. Secrets are in its environment.
func (a *authority) client(ca, home string, env []string, args ...string) error {
	env = append(env, "FABRIC_CA_CLIENT_HOME="+home, "FABRIC_CA_CLIENT_TLS_CERTFILES="+a.certificate(memberCA), "FABRIC_CA_CLIENT_CANAME="+ca, "FABRIC_CA_CLIENT_LOGLEVEL=warning")
	_, err := a.net.run(env, "fabric-ca-client", args...)
	return err
}

// enroll gets a certificate for a registered name, and puts it with its key in
// home/msp.
func (a *authority) enroll(ca, name, secret, home string, hosts []string, args ...string) error {
	env := []string{"FABRIC_CA_CLIENT_URL=" + (&url.URL{Scheme: "https", User: url.UserPassword(name, secret), Host: a.address}).String()}
	args = append([]string{"enroll", "--csr.cn", name}, args...)
	for _, h := range hosts {
		args = append(args, "--csr.hosts", h)
	}
	return a.client(ca, home, env, args...)
}

// member registers and enrolls one, with both authorities if it serves.
func (a *authority) member(m member) error {
	secret := rand.Text()
	work := filepath.Join(a.home, "members", m.name)
	authorities := []string{memberCA}
	if m.tls {
		authorities = append(authorities, tlsCA)
	}
	for _, ca := range authorities {
		env := []string{"FABRIC_CA_CLIENT_ID_SECRET=" + secret, "FABRIC_CA_CLIENT_URL=https://" + a.address}
		if err := a.client(ca, a.registrar(ca), env, "register", "--id.name", m.name, "--id.type", m.kind); err != nil {
			return err
		}
		home := filepath.Join(work, ca)
		var hosts, profile []string
		if ca == tlsCA {
			hosts, profile = []string{m.name, "localhost", "127.0.0.1"}, []string{"--enrollment.profile", "tls"}
		}
		if err := a.enroll(ca, m.name, secret, home, hosts, profile...); err != nil {
			return err
		}
		key, err := only(filepath.Join(home, "msp/keystore/*_sk"))
		if err != nil {
			return err
		}
		cert := filepath.Join(home, "msp/signcerts/cert.pem")
		if ca == tlsCA {
			err = errors.Join(copyFile(key, filepath.Join(m.dir, "tls/server.key")), copyFile(cert, filepath.Join(m.dir, "tls/server.crt")),
				copyFile(a.certificate(tlsCA), filepath.Join(m.dir, "tls/ca.crt")))
		} else {
			err = errors.Join(copyFile(key, filepath.Join(m.dir, "msp/keystore/priv_sk")), copyFile(cert, filepath.Join(m.dir, "msp/signcerts", m.name+"-cert.pem")),
				a.msp(filepath.Join(m.dir, "msp")))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// msp writes what a membership provider's directory says of its organization.
func (a *authority) msp(dir string) error {
	file := memberCA + "." + a.domain + "-cert.pem"
	if err := errors.Join(copyFile(a.certificate(memberCA), filepath.Join(dir, "cacerts", file)),
		copyFile(a.certificate(tlsCA), filepath.Join(dir, "tlscacerts", tlsCA+"."+a.domain+"-cert.pem"))); err != nil {
		return err
	}
	rel, err := filepath.Rel(a.net.o.Dir, filepath.Join(dir, "config.yaml"))
	if err != nil {
		return err
	}
	return a.net.write(rel, nodeOUs, map[string]string{"File": file})
}

// only returns the one file of a pattern.
func only(pattern string) (string, error) {
	files, err := filepath.Glob(pattern)
	if err == nil && len(files) != 1 {
		err = fmt.Errorf("%s: %d files, want one: %w", pattern, len(files), fs.ErrNotExist)
	}
	if err != nil {
		return "", err
	}
	return files[0], nil
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o600)
}

// Package fabnet starts a network of Hyperledger Fabric on this machine, without
// Docker: three organizations (ISP, relays, authority) with a peer and a chaincode
// service each, one orderer (Raft) or four (BFT), TLS everywhere, all on loopback.
package fabnet

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"text/template"
	"time"

	"brightgid/internal/labport"
)

// Chaincode is the chaincode's name on every channel.
const Chaincode = "gid-ledger"

// Options say what a network is like.
type Options struct {
	Dir       string // for its files
	Fabric    string // directory of Fabric's programs and of config/ with its sample configuration
	Chaincode string // path of gidchain
	Orderers  int    // 1, or 4 for BFT
	Channels  []string
	Roots     map[string]string // organization: PEM file of the ledger's roots
	CA        bool              // whether members enroll with Fabric CA, or have keys of cryptogen's
	Log       func(format string, args ...any)
}

// Organization is one of the network's.
type Organization struct {
	Name, MSP, Domain string
	Roles             []string // that its members may have on the ledger
	Peer              *Process
	Service           *Process // gidchain

	Address   string // of its peer
	chaincode string // address of its service
	packageID string
	net       *Network
}

// Network is a network that runs.
type Network struct {
	Organizations []*Organization
	Orderers      []*Process

	o        Options
	orderers []orderer
}

type orderer struct{ Host, Listen, Admin, Operations string }

// Process is a program of the network's, which writes to a log file.
type Process struct {
	cmd  *exec.Cmd
	make func() *exec.Cmd
	log  string
	done chan struct{}
}

func (n *Network) process(name string, make func() *exec.Cmd) (*Process, error) {
	p := &Process{make: make, log: n.path("log", name+".log")}
	return p, p.Start()
}

// Start starts the program, again.
func (p *Process) Start() error {
	f, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	c := p.make()
	c.Stdout, c.Stderr = f, f
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		return err
	}
	p.cmd, p.done = c, make(chan struct{})
	go func(done chan struct{}) {
		_ = c.Wait() // its status is in the log, if anywhere
		close(done)
	}(p.done)
	return nil
}

// Kill ends the program as a crash would.
func (p *Process) Kill() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // it may have ended
	<-p.done
}

// Log returns the end of what the program wrote.
func (p *Process) Log() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-20_000):])
}

func (n *Network) path(elem ...string) string {
	return filepath.Join(append([]string{n.o.Dir}, elem...)...)
}

// Start makes a network's keys and starts it; the chaincode is on every channel
// when it returns.
func Start(o Options) (_ *Network, err error) {
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	n := &Network{o: o}
	for _, org := range []*Organization{
		{Name: "isp", MSP: "ISPMSP", Roles: []string{"isp"}},
		{Name: "relays", MSP: "RelaysMSP", Roles: []string{"relay", "log"}},
		{Name: "authority", MSP: "AuthorityMSP", Roles: []string{"judge", "trustee", "holder"}},
	} {
		org.Domain, org.net = org.Name+".gid", n
		n.Organizations = append(n.Organizations, org)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	for _, d := range []string{"log", "config", "channel"} {
		if err := os.MkdirAll(n.path(d), 0o700); err != nil {
			return nil, err
		}
	}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"making keys", n.keys}, {"making channels", n.channels}, {"starting orderers", n.startOrderers},
		{"starting peers", n.startPeers}, {"joining channels", n.join}, {"installing the chaincode", n.install}, {"committing the chaincode", n.commit},
	} {
		o.Log("%s", step.what)
		if err := step.do(); err != nil {
			return nil, fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return n, nil
}

// Close ends all programs.
func (n *Network) Close() error {
	for _, o := range n.Organizations {
		for _, p := range []*Process{o.Peer, o.Service} {
			if p != nil {
				p.Kill()
			}
		}
	}
	for _, p := range n.Orderers {
		p.Kill()
	}
	return nil
}

// Organization returns one by its name.
func (n *Network) Organization(name string) *Organization {
	for _, o := range n.Organizations {
		if o.Name == name {
			return o
		}
	}
	return nil
}

// freeAddress returns an address of loopback for a program of the network's.
func freeAddress() (string, error) {
	port, err := labport.Take("127.0.0.1")
	return fmt.Sprintf("127.0.0.1:%d", port), err
}

// run runs one of Fabric's programs.
func (n *Network) run(env []string, program string, args ...string) (string, error) {
	c := exec.Command(filepath.Join(n.o.Fabric, program), args...)
	c.Env = append(append(os.Environ(), "FABRIC_CFG_PATH="+n.path("config")), env...)
	out, err := c.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, bytes.TrimSpace(out[max(0, len(out)-2000):]))
	}
	return string(out), nil
}

func (n *Network) write(name, text string, data any) error {
	t, err := template.New(name).Parse(text)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		return err
	}
	return os.WriteFile(n.path(name), b.Bytes(), 0o600)
}

const cryptoConfig = `OrdererOrgs:
  - Name: Orderer
    Domain: orderer.gid
    EnableNodeOUs: true
    Specs:
{{- range .Orderers }}
      - Hostname: {{ .Host }}
        SANS: [localhost, 127.0.0.1]
{{- end }}
PeerOrgs:
{{- range .Organizations }}
  - Name: {{ .Name }}
    Domain: {{ .Domain }}
    EnableNodeOUs: true
    Specs:
      - Hostname: peer0
        SANS: [localhost, 127.0.0.1]
    Users:
      Count: 1
{{- end }}
`

func (n *Network) keys() error {
	for i := range n.o.Orderers {
		o := orderer{Host: fmt.Sprintf("o%d", i+1)}
		for _, a := range []*string{&o.Listen, &o.Admin, &o.Operations} {
			var err error
			if *a, err = freeAddress(); err != nil {
				return err
			}
		}
		n.orderers = append(n.orderers, o)
	}
	if n.o.CA {
		return n.enrollAll()
	}
	data := map[string]any{"Orderers": n.orderers, "Organizations": n.Organizations}
	if err := n.write("config/crypto.yaml", cryptoConfig, data); err != nil {
		return err
	}
	_, err := n.run(nil, "cryptogen", "generate", "--config", n.path("config/crypto.yaml"), "--output", n.path("crypto"))
	return err
}

func (n *Network) ordererDir(host string) string {
	return n.path("crypto/ordererOrganizations/orderer.gid/orderers", host+".orderer.gid")
}

func (o *Organization) dir() string {
	return o.net.path("crypto/peerOrganizations", o.Domain)
}

func (o *Organization) peerDir() string { return filepath.Join(o.dir(), "peers", "peer0."+o.Domain) }

const configtx = `Organizations:
  - &Orderer
    Name: Orderer
    ID: OrdererMSP
    MSPDir: {{ .Crypto }}/ordererOrganizations/orderer.gid/msp
    Policies:
      Readers: {Type: Signature, Rule: "OR('OrdererMSP.member')"}
      Writers: {Type: Signature, Rule: "OR('OrdererMSP.member')"}
      Admins: {Type: Signature, Rule: "OR('OrdererMSP.admin')"}
    OrdererEndpoints:
{{- range .Orderers }}
      - {{ .Listen }}
{{- end }}
{{- range .Organizations }}
  - &{{ .Name }}
    Name: {{ .Name }}
    ID: {{ .MSP }}
    MSPDir: {{ $.Crypto }}/peerOrganizations/{{ .Domain }}/msp
    Policies:
      Readers: {Type: Signature, Rule: "OR('{{ .MSP }}.admin', '{{ .MSP }}.peer', '{{ .MSP }}.client')"}
      Writers: {Type: Signature, Rule: "OR('{{ .MSP }}.admin', '{{ .MSP }}.client')"}
      Admins: {Type: Signature, Rule: "OR('{{ .MSP }}.admin')"}
      Endorsement: {Type: Signature, Rule: "OR('{{ .MSP }}.peer')"}
    AnchorPeers:
      - Host: 127.0.0.1
        Port: {{ .Port }}
{{- end }}
Profiles:
  Channel:
    Policies: &Policies
      Readers: {Type: ImplicitMeta, Rule: "ANY Readers"}
      Writers: {Type: ImplicitMeta, Rule: "ANY Writers"}
      Admins: {Type: ImplicitMeta, Rule: "MAJORITY Admins"}
    Capabilities: {V3_0: true}
    Orderer:
      OrdererType: {{ if .BFT }}BFT{{ else }}etcdraft{{ end }}
      BatchTimeout: 200ms
      BatchSize: {MaxMessageCount: 500, AbsoluteMaxBytes: 90 MB, PreferredMaxBytes: 4 MB}
{{- if .BFT }}
      SmartBFT:
        RequestBatchMaxInterval: 200ms
        RequestForwardTimeout: 2s
        RequestComplainTimeout: 4s
        RequestAutoRemoveTimeout: 3m0s
        ViewChangeResendInterval: 2s
        ViewChangeTimeout: 10s
        LeaderHeartbeatTimeout: 5s
        CollectTimeout: 1s
        IncomingMessageBufferSize: 200
        RequestPoolSize: 100000
        LeaderHeartbeatCount: 10
      ConsenterMapping:
{{- range $i, $o := .Orderers }}
        - ID: {{ $o.ID }}
          Host: 127.0.0.1
          Port: {{ $o.Port }}
          MSPID: OrdererMSP
          Identity: {{ $o.Dir }}/msp/signcerts/{{ $o.Host }}.orderer.gid-cert.pem
          ClientTLSCert: {{ $o.Dir }}/tls/server.crt
          ServerTLSCert: {{ $o.Dir }}/tls/server.crt
{{- end }}
{{- else }}
      EtcdRaft:
        Consenters:
{{- range .Orderers }}
          - Host: 127.0.0.1
            Port: {{ .Port }}
            ClientTLSCert: {{ .Dir }}/tls/server.crt
            ServerTLSCert: {{ .Dir }}/tls/server.crt
{{- end }}
        Options: {TickInterval: 200ms, ElectionTick: 10, HeartbeatTick: 1, MaxInflightBlocks: 5, SnapshotIntervalSize: 64 MB}
{{- end }}
      Organizations: [*Orderer]
      Policies:
        <<: *Policies
        BlockValidation: {Type: ImplicitMeta, Rule: "ANY Writers"}
      Capabilities: {V2_0: true}
    Application:
      Organizations: [{{ range $i, $o := .Organizations }}{{ if $i }}, {{ end }}*{{ $o.Name }}{{ end }}]
      Policies:
        <<: *Policies
        LifecycleEndorsement: {Type: ImplicitMeta, Rule: "MAJORITY Endorsement"}
        Endorsement: {Type: ImplicitMeta, Rule: "MAJORITY Endorsement"}
      Capabilities: {V2_5: true}
`

func port(address string) string {
	_, p, _ := net.SplitHostPort(address)
	return p
}

// Port returns the port of the organization's peer.
func (o *Organization) Port() string { return port(o.Address) }

func (n *Network) channels() error {
	for _, o := range n.Organizations {
		for _, a := range []*string{&o.Address, &o.chaincode} {
			var err error
			if *a, err = freeAddress(); err != nil {
				return err
			}
		}
	}
	type consenter struct {
		orderer
		ID   int
		Port string
		Dir  string
	}
	var consenters []consenter
	for i, o := range n.orderers {
		consenters = append(consenters, consenter{o, i + 1, port(o.Listen), n.ordererDir(o.Host)})
	}
	if err := n.write("config/configtx.yaml", configtx, map[string]any{
		"Crypto": n.path("crypto"), "Orderers": consenters, "Organizations": n.Organizations, "BFT": n.o.Orderers > 1,
	}); err != nil {
		return err
	}
	for _, f := range []string{"core.yaml", "orderer.yaml"} {
		b, err := os.ReadFile(filepath.Join(n.o.Fabric, "config", f))
		if err != nil {
			return err
		}
		if err := os.WriteFile(n.path("config", f), b, 0o600); err != nil {
			return err
		}
	}
	for _, c := range n.o.Channels {
		if _, err := n.run(nil, "configtxgen", "-profile", "Channel", "-channelID", c, "-outputBlock", n.path("channel", c+".block")); err != nil {
			return err
		}
	}
	return nil
}

func (n *Network) startOrderers() error {
	for _, o := range n.orderers {
		tls := filepath.Join(n.ordererDir(o.Host), "tls")
		host, p, _ := net.SplitHostPort(o.Listen)
		env := []string{
			"FABRIC_CFG_PATH=" + n.path("config"), "FABRIC_LOGGING_SPEC=warning",
			"ORDERER_GENERAL_LISTENADDRESS=" + host, "ORDERER_GENERAL_LISTENPORT=" + p,
			"ORDERER_GENERAL_LOCALMSPID=OrdererMSP", "ORDERER_GENERAL_LOCALMSPDIR=" + filepath.Join(n.ordererDir(o.Host), "msp"),
			"ORDERER_GENERAL_TLS_ENABLED=true", "ORDERER_GENERAL_TLS_PRIVATEKEY=" + tls + "/server.key",
			"ORDERER_GENERAL_TLS_CERTIFICATE=" + tls + "/server.crt", "ORDERER_GENERAL_TLS_ROOTCAS=[" + tls + "/ca.crt]",
			"ORDERER_GENERAL_CLUSTER_CLIENTCERTIFICATE=" + tls + "/server.crt", "ORDERER_GENERAL_CLUSTER_CLIENTPRIVATEKEY=" + tls + "/server.key",
			"ORDERER_GENERAL_CLUSTER_ROOTCAS=[" + tls + "/ca.crt]",
			"ORDERER_GENERAL_BOOTSTRAPMETHOD=none", "ORDERER_CHANNELPARTICIPATION_ENABLED=true",
			"ORDERER_ADMIN_LISTENADDRESS=" + o.Admin, "ORDERER_ADMIN_TLS_ENABLED=true", "ORDERER_ADMIN_TLS_CERTIFICATE=" + tls + "/server.crt",
			"ORDERER_ADMIN_TLS_PRIVATEKEY=" + tls + "/server.key", "ORDERER_ADMIN_TLS_CLIENTAUTHREQUIRED=true", "ORDERER_ADMIN_TLS_CLIENTROOTCAS=[" + tls + "/ca.crt]",
			"ORDERER_OPERATIONS_LISTENADDRESS=" + o.Operations,
			"ORDERER_FILELEDGER_LOCATION=" + n.path("data", o.Host, "ledger"),
			"ORDERER_CONSENSUS_WALDIR=" + n.path("data", o.Host, "wal"), "ORDERER_CONSENSUS_SNAPDIR=" + n.path("data", o.Host, "snap"),
		}
		p2, err := n.process("orderer-"+o.Host, func() *exec.Cmd {
			c := exec.Command(filepath.Join(n.o.Fabric, "orderer"))
			c.Env = append(os.Environ(), env...)
			return c
		})
		if err != nil {
			return err
		}
		n.Orderers = append(n.Orderers, p2)
	}
	for _, c := range n.o.Channels {
		for i, o := range n.orderers {
			tls := filepath.Join(n.ordererDir(o.Host), "tls")
			if err := retry(30*time.Second, func() error {
				out, err := n.run(nil, "osnadmin", "channel", "join", "--channelID", c, "--config-block", n.path("channel", c+".block"),
					"-o", o.Admin, "--ca-file", tls+"/ca.crt", "--client-cert", tls+"/server.crt", "--client-key", tls+"/server.key")
				if err == nil && !strings.Contains(out, "Status: 201") && !strings.Contains(out, "already exists") {
					err = fmt.Errorf("osnadmin: %s", out)
				}
				return err
			}); err != nil {
				return fmt.Errorf("%w; orderer %s wrote:\n%s", err, o.Host, n.Orderers[i].Log())
			}
		}
	}
	return nil
}

// retry calls f until it returns nil, and returns its last error when that takes
// too long.
func retry(within time.Duration, f func() error) error {
	for deadline := time.Now().Add(within); ; time.Sleep(200 * time.Millisecond) {
		err := f()
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// The external builder that Fabric's module lacks: a package of type ccaas says where
// its chaincode is served.
var builder = map[string]string{
	"detect":  "#!/bin/sh\ngrep -q '\"type\":\"ccaas\"' \"$2/metadata.json\"\n",
	"build":   "#!/bin/sh\ncp \"$1/connection.json\" \"$3/\"\n",
	"release": "#!/bin/sh\nmkdir -p \"$2/chaincode/server\" && cp \"$1/connection.json\" \"$2/chaincode/server/\"\n",
}

func (n *Network) startPeers() error {
	if err := os.MkdirAll(n.path("builder/bin"), 0o700); err != nil {
		return err
	}
	for name, text := range builder {
		if err := os.WriteFile(n.path("builder/bin", name), []byte(text), 0o700); err != nil {
			return err
		}
	}
	for _, o := range n.Organizations {
		local, err := freeAddress()
		if err != nil {
			return err
		}
		operations, err := freeAddress()
		if err != nil {
			return err
		}
		tls := filepath.Join(o.peerDir(), "tls")
		env := []string{
			"FABRIC_CFG_PATH=" + n.path("config"), "FABRIC_LOGGING_SPEC=warning",
			"CORE_PEER_ID=peer0." + o.Domain, "CORE_PEER_LOCALMSPID=" + o.MSP, "CORE_PEER_MSPCONFIGPATH=" + filepath.Join(o.peerDir(), "msp"),
			"CORE_PEER_ADDRESS=" + o.Address, "CORE_PEER_LISTENADDRESS=" + o.Address, "CORE_PEER_CHAINCODELISTENADDRESS=" + local,
			"CORE_PEER_GOSSIP_BOOTSTRAP=" + o.Address, "CORE_PEER_GOSSIP_EXTERNALENDPOINT=" + o.Address,
			"CORE_PEER_GOSSIP_USELEADERELECTION=false", "CORE_PEER_GOSSIP_ORGLEADER=true",
			"CORE_PEER_TLS_ENABLED=true", "CORE_PEER_TLS_CERT_FILE=" + tls + "/server.crt", "CORE_PEER_TLS_KEY_FILE=" + tls + "/server.key",
			"CORE_PEER_TLS_ROOTCERT_FILE=" + tls + "/ca.crt",
			"CORE_PEER_FILESYSTEMPATH=" + n.path("data", o.Name), "CORE_LEDGER_SNAPSHOTS_ROOTDIR=" + n.path("data", o.Name, "snapshots"),
			"CORE_OPERATIONS_LISTENADDRESS=" + operations, "CORE_VM_ENDPOINT=",
			fmt.Sprintf("CORE_CHAINCODE_EXTERNALBUILDERS=[{name: ccaas, path: %s}]", n.path("builder")),
		}
		if o.Peer, err = n.process("peer-"+o.Name, func() *exec.Cmd {
			c := exec.Command(filepath.Join(n.o.Fabric, "peer"), "node", "start")
			c.Env = append(os.Environ(), env...)
			return c
		}); err != nil {
			return err
		}
	}
	return nil
}

// admin are the settings of an organization's administrator.
func (o *Organization) admin() []string {
	return []string{
		"CORE_PEER_LOCALMSPID=" + o.MSP, "CORE_PEER_MSPCONFIGPATH=" + filepath.Join(o.dir(), "users", "Admin@"+o.Domain, "msp"),
		"CORE_PEER_ADDRESS=" + o.Address, "CORE_PEER_TLS_ENABLED=true", "CORE_PEER_TLS_ROOTCERT_FILE=" + filepath.Join(o.peerDir(), "tls/ca.crt"),
		"FABRIC_LOGGING_SPEC=error",
	}
}

func (n *Network) join() error {
	for _, o := range n.Organizations {
		for _, c := range n.o.Channels {
			if err := retry(30*time.Second, func() error {
				_, err := n.run(o.admin(), "peer", "channel", "join", "-b", n.path("channel", c+".block"))
				if err != nil && strings.Contains(err.Error(), "already exists") {
					return nil
				}
				return err
			}); err != nil {
				return fmt.Errorf("%w; the peer wrote:\n%s", err, o.Peer.Log())
			}
		}
	}
	return nil
}

const version, label = "1", Chaincode + "_1"

// install makes the organization's chaincode package, which says where its own
// service is, installs it and starts the service.
func (n *Network) install() error {
	for _, o := range n.Organizations {
		ca, err := os.ReadFile(filepath.Join(o.peerDir(), "tls/ca.crt"))
		if err != nil {
			return err
		}
		clientCert, err := os.ReadFile(filepath.Join(o.peerDir(), "tls/server.crt"))
		if err != nil {
			return err
		}
		clientKey, err := os.ReadFile(filepath.Join(o.peerDir(), "tls/server.key"))
		if err != nil {
			return err
		}
		connection, err := json.Marshal(map[string]any{
			"address": o.chaincode, "dial_timeout": "10s", "tls_required": true, "client_auth_required": true,
			"root_cert": string(ca), "client_cert": string(clientCert), "client_key": string(clientKey),
		})
		if err != nil {
			return err
		}
		code, err := archive("connection.json", connection)
		if err != nil {
			return err
		}
		pkg, err := archive("metadata.json", []byte(`{"type":"ccaas","label":"`+label+`"}`), "code.tar.gz", code)
		if err != nil {
			return err
		}
		file := n.path("config", o.Name+"-chaincode.tar.gz")
		if err := os.WriteFile(file, pkg, 0o600); err != nil {
			return err
		}
		out, err := n.run(o.admin(), "peer", "lifecycle", "chaincode", "calculatepackageid", file)
		if err != nil {
			return err
		}
		if o.packageID = regexp.MustCompile(label + ":[0-9a-f]{64}").FindString(out); o.packageID == "" {
			return fmt.Errorf("no package id in %q", out)
		}
		if err := n.startService(o); err != nil {
			return err
		}
		if err := retry(20*time.Second, func() error {
			_, err := n.run(o.admin(), "peer", "lifecycle", "chaincode", "install", file)
			if err != nil && strings.Contains(err.Error(), "already successfully installed") {
				return nil
			}
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// startService starts the organization's gidchain, whose configuration is the same
// for all.
func (n *Network) startService(o *Organization) error {
	var config strings.Builder
	for _, x := range n.Organizations {
		roots, ok := n.o.Roots[x.Name]
		if !ok {
			return fmt.Errorf("organization %s has no roots on the ledger", x.Name)
		}
		fmt.Fprintf(&config, "[[organization]]\nmsp = %q\nroles = [\"%s\"]\nroots = %q\n\n", x.MSP, strings.Join(x.Roles, `", "`), roots)
	}
	file := n.path("config", o.Name+"-gidchain.toml")
	if err := os.WriteFile(file, []byte(config.String()), 0o600); err != nil {
		return err
	}
	tls := filepath.Join(o.peerDir(), "tls")
	var err error
	o.Service, err = n.process("gidchain-"+o.Name, func() *exec.Cmd {
		return exec.Command(n.o.Chaincode, "serve", "--config", file, "--listen", o.chaincode, "--id", o.packageID,
			"--tls-cert", tls+"/server.crt", "--tls-key", tls+"/server.key", "--tls-clients", tls+"/ca.crt")
	})
	return err
}

// archive makes a gzipped tar of names and contents.
func archive(files ...any) ([]byte, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	t := tar.NewWriter(z)
	for i := 0; i < len(files); i += 2 {
		content := files[i+1].([]byte)
		if err := t.WriteHeader(&tar.Header{Name: files[i].(string), Mode: 0o600, Size: int64(len(content))}); err != nil {
			return nil, err
		}
		if _, err := t.Write(content); err != nil {
			return nil, err
		}
	}
	err := errors.Join(t.Close(), z.Close())
	return b.Bytes(), err
}

func (n *Network) ordererArgs() []string {
	return []string{"-o", n.orderers[0].Listen, "--tls", "--cafile", filepath.Join(n.ordererDir(n.orderers[0].Host), "tls/ca.crt")}
}

// commit approves the chaincode for each organization and commits it.
func (n *Network) commit() error {
	for _, c := range n.o.Channels {
		definition := append([]string{"--channelID", c, "--name", Chaincode, "--version", version, "--sequence", "1"}, n.ordererArgs()...)
		for _, o := range n.Organizations {
			if err := retry(60*time.Second, func() error { // there may be no leader among the orderers yet
				_, err := n.run(o.admin(), "peer", append([]string{"lifecycle", "chaincode", "approveformyorg", "--package-id", o.packageID}, definition...)...)
				if err != nil && strings.Contains(err.Error(), "unchanged content") {
					return nil
				}
				return err
			}); err != nil {
				return fmt.Errorf("%w; the orderer wrote:\n%s", err, n.Orderers[0].Log())
			}
		}
		args := append([]string{"lifecycle", "chaincode", "commit"}, definition...)
		for _, o := range n.Organizations {
			args = append(args, "--peerAddresses", o.Address, "--tlsRootCertFiles", filepath.Join(o.peerDir(), "tls/ca.crt"))
		}
		if err := retry(60*time.Second, func() error {
			_, err := n.run(n.Organizations[0].admin(), "peer", args...)
			if err != nil && strings.Contains(err.Error(), "requested sequence is 1, but new definition must be sequence 2") {
				return nil
			}
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// Identity is what a client of an organization needs.
type Identity struct {
	MSP         string
	Certificate *x509.Certificate
	Key         crypto.PrivateKey
	Peers       []string
	PeerRoots   *x509.CertPool
	CAs         *x509.CertPool // that issue the certificates of the organization's peers and clients
}

// Client returns the identity of the organization's client. It knows the peers of the
// other organizations as well, to take when its own is lost.
func (o *Organization) Client() (*Identity, error) {
	id, err := ReadClient(o.net.o.Dir, o.Name, o.MSP)
	if err != nil {
		return nil, err
	}
	id.Peers = []string{o.Address}
	for _, x := range o.net.Organizations {
		if x != o {
			id.Peers = append(id.Peers, x.Address)
		}
	}
	return id, nil
}

// ReadClient reads the identity of an organization's client from the files of a
// network. It does not know the peers.
func ReadClient(dir, org, msp string) (*Identity, error) {
	orgs := filepath.Join(dir, "crypto/peerOrganizations")
	domain := org + ".gid"
	user := filepath.Join(orgs, domain, "users", "User1@"+domain, "msp")
	id := &Identity{MSP: msp, PeerRoots: x509.NewCertPool(), CAs: x509.NewCertPool()}
	add := func(pool *x509.CertPool, pattern string) error {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			return fmt.Errorf("%s: no certificate: %w", pattern, errors.Join(err, os.ErrNotExist))
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				return err
			}
			if !pool.AppendCertsFromPEM(b) {
				return fmt.Errorf("%s: no certificate", f)
			}
		}
		return nil
	}
	if err := errors.Join(add(id.PeerRoots, filepath.Join(orgs, "*/tlsca/*-cert.pem")), add(id.CAs, filepath.Join(orgs, domain, "ca/*-cert.pem"))); err != nil {
		return nil, err
	}
	cert, err := os.ReadFile(filepath.Join(user, "signcerts", "User1@"+domain+"-cert.pem"))
	if err != nil {
		return nil, err
	}
	key, err := os.ReadFile(filepath.Join(user, "keystore", "priv_sk"))
	if err != nil {
		return nil, err
	}
	cb, _ := pem.Decode(cert)
	kb, _ := pem.Decode(key)
	if cb == nil || kb == nil {
		return nil, fmt.Errorf("%s: not PEM", user)
	}
	if id.Certificate, err = x509.ParseCertificate(cb.Bytes); err != nil {
		return nil, err
	}
	id.Key, err = x509.ParsePKCS8PrivateKey(kb.Bytes)
	return id, err
}

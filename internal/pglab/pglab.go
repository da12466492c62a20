// Package pglab starts PostgreSQL for tests: a primary, and standbys that can take over. Each
// listens at a port of its own on [::1], and at a socket, which namespaces reach as well.
package pglab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"brightgid/internal/labport"
)

// User and Database are what clusters have; nobody is asked for a password.
const (
	User     = "gid"
	Database = "gid"
)

// Cluster is a PostgreSQL server with its data.
type Cluster struct {
	Port int

	dir  string
	bin  string
	cred *syscall.Credential
	conf []string
	cmd  *exec.Cmd
	log  string
}

// locate finds PostgreSQL's programs and whom to run them as: it refuses root.
func locate() (bin string, cred *syscall.Credential, err error) {
	all, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(all) == 0 {
		return "", nil, errors.New("PostgreSQL is not installed: run make deps")
	}
	slices.Sort(all)
	bin = filepath.Dir(all[len(all)-1])
	if os.Getuid() != 0 {
		return bin, nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return "", nil, err
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	return bin, &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, errors.Join(err1, err2)
}

// New makes a cluster in a directory of its own and starts it. conf are lines of its
// configuration. The caller closes it.
func New(conf ...string) (*Cluster, error) {
	c, err := prepare(conf)
	if err != nil {
		return nil, err
	}
	if err = c.run("initdb", "-D", c.dir, "-U", User, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"); err == nil {
		err = c.Start()
	}
	if err == nil {
		err = c.SQL("CREATE DATABASE "+Database, "postgres")
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func prepare(conf []string) (*Cluster, error) {
	bin, cred, err := locate()
	if err != nil {
		return nil, err
	}
	port, err := labport.Take("::1")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "gidlab-postgres-")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, errors.Join(err, os.Remove(dir))
	}
	if cred != nil {
		if err := os.Chown(dir, int(cred.Uid), int(cred.Gid)); err != nil {
			return nil, errors.Join(err, os.Remove(dir))
		}
	}
	return &Cluster{Port: port, dir: filepath.Join(dir, "data"), bin: bin, cred: cred, conf: conf, log: filepath.Join(dir, "log")}, nil
}

func (c *Cluster) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(c.bin, name), args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.cred}
	cmd.Env = append(os.Environ(), "LC_ALL=C", "PGHOST=::1", "PGPORT="+strconv.Itoa(c.Port), "PGUSER="+User)
	return cmd
}

func (c *Cluster) run(name string, args ...string) error {
	if out, err := c.command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}

// Start starts the server and waits until it answers.
func (c *Cluster) Start() error {
	log, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	args := []string{"-D", c.dir, "-p", strconv.Itoa(c.Port), "-c", "listen_addresses=::1", "-c", "unix_socket_directories=" + filepath.Dir(c.dir), "-c", "max_connections=200"}
	for _, s := range c.conf {
		args = append(args, "-c", s)
	}
	c.cmd = c.command("postgres", args...)
	c.cmd.Stdout, c.cmd.Stderr = log, log
	if err := c.cmd.Start(); err != nil {
		return err
	}
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if err = c.run("pg_isready", "-q"); err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.Join(fmt.Errorf("PostgreSQL does not answer: %w\n%s", err, c.Log()), c.Kill())
		}
	}
}

// Pid returns the id of the server's first process.
func (c *Cluster) Pid() int { return c.cmd.Process.Pid }

// SQL runs a statement in a database, the lab's if none is named.
func (c *Cluster) SQL(statement string, database ...string) error {
	_, err := c.Query(statement, database...)
	return err
}

// Query runs a statement and returns what it yields, fields parted by "|".
func (c *Cluster) Query(statement string, database ...string) (string, error) {
	db := append(database, Database)[0]
	out, err := c.command("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", db, "-c", statement).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("psql: %w\n%s", err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// Standby makes a standby that follows the cluster, starts it, and has the cluster wait for it
// with whatever it acknowledges.
func (c *Cluster) Standby(name string, conf ...string) (*Cluster, error) {
	s, err := prepare(conf)
	if err != nil {
		return nil, err
	}
	from := fmt.Sprintf("host=::1 port=%d user=%s application_name=%s", c.Port, User, name)
	if err := s.run("pg_basebackup", "-D", s.dir, "-R", "-X", "stream", "-c", "fast", "--no-sync", "-d", from); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	err = s.Start()
	for _, statement := range []string{"ALTER SYSTEM SET synchronous_standby_names = '" + name + "'", "SELECT pg_reload_conf()"} {
		if err == nil {
			err = c.SQL(statement)
		}
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Promote has a standby take over.
func (c *Cluster) Promote() error { return c.run("pg_ctl", "promote", "-w", "-t", "60", "-D", c.dir) }

// Kill ends the server as if its machine had gone.
func (c *Cluster) Kill() error { return c.end(syscall.SIGKILL) }

// Close ends the server, if it has not ended, and removes its data.
func (c *Cluster) Close() error {
	return errors.Join(c.end(syscall.SIGQUIT), os.RemoveAll(filepath.Dir(c.dir)))
}

// Log returns what the server wrote.
func (c *Cluster) Log() string {
	b, err := os.ReadFile(c.log)
	if err != nil {
		return err.Error()
	}
	return string(bytes.TrimSpace(b))
}

func (c *Cluster) end(s syscall.Signal) error {
	if c.cmd == nil {
		return nil
	}
	if err := c.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	_ = c.cmd.Wait() // it ends by the signal
	c.cmd = nil
	return nil
}

// Sockets names the database on clusters as URL does, by sockets instead of ports.
func Sockets(clusters ...*Cluster) string {
	var hosts, ports []string
	for _, c := range clusters {
		hosts, ports = append(hosts, filepath.Dir(c.dir)), append(ports, strconv.Itoa(c.Port))
	}
	return fmt.Sprintf("host=%s port=%s user=%s dbname=%s target_session_attrs=read-write", strings.Join(hosts, ","), strings.Join(ports, ","), User, Database)
}

// URL names the database on clusters, the one of them that can be written to.
func URL(clusters ...*Cluster) string {
	var hosts []string
	for _, c := range clusters {
		hosts = append(hosts, fmt.Sprintf("[::1]:%d", c.Port))
	}
	return "postgres://" + User + "@" + strings.Join(hosts, ",") + "/" + Database + "?sslmode=disable&target_session_attrs=read-write"
}

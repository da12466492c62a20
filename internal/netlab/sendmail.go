package netlab

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// StartSendmail starts Sendmail in Postfix's place, from files that `make deps` has
// unpacked into a directory. It asks the relay's gidmilter and passes all mail on to another
// relay.
func (m *MailRelay) StartSendmail(files string, next *MailRelay) (err error) {
	if files, err = filepath.Abs(files); err != nil {
		return err
	}
	dir := func(elem string) string { return m.path("sendmail", elem) }
	if err := os.MkdirAll(dir("queue"), 0o700); err != nil {
		return err
	}
	mc := fmt.Sprintf("OSTYPE(`linux')dnl\n"+
		"define(`confPID_FILE', `%[1]s/pid')dnl\ndefine(`QUEUE_DIR', `%[1]s/queue')dnl\ndefine(`STATUS_FILE', `%[1]s/stat')dnl\ndefine(`ALIAS_FILE', `')dnl\n"+
		"define(`confDOMAIN_NAME', `%[2]s')dnl\ndefine(`confDONT_BLAME_SENDMAIL', `TrustStickyBit,GroupWritableDirPathSafe')dnl\n"+
		"define(`confDONT_PROBE_INTERFACES', `True')dnl\ndefine(`confTO_IDENT', `0')dnl\ndefine(`SMART_HOST', `[IPv6:%[3]s]')dnl\n"+
		"FEATURE(`accept_unresolvable_domains')dnl\nFEATURE(`promiscuous_relay')dnl\nFEATURE(`nocanonify')dnl\nFEATURE(`no_default_msa')dnl\n"+
		"DAEMON_OPTIONS(`Name=MTA, Family=inet6, Port=25')dnl\nCLIENT_OPTIONS(`Family=inet6, Addr=%[4]s')dnl\n"+
		"INPUT_MAIL_FILTER(`gidmilter', `S=unix:%[5]s, F=T, T=S:30s;R:60s;E:2m')dnl\nMAILER(`smtp')dnl\n", m.path("sendmail"), m.Name, next.Addr, m.Addr, m.Socket())
	if err := os.WriteFile(dir("sendmail.mc"), []byte(mc), 0o644); err != nil {
		return err
	}
	cf := filepath.Join(files, "usr/share/sendmail/cf/")
	text, err := m.Host.Output("m4", "-D_CF_DIR_="+cf+"/", filepath.Join(cf, "m4/cf.m4"), dir("sendmail.mc"))
	if err != nil {
		return err
	}
	// Sendmail waits for a minute for a full name of its host.
	hosts := fmt.Sprintf("::1 localhost\n%s %s\n", m.Addr, m.Name)
	for name, content := range map[string]string{"sendmail.cf": text, "hosts": hosts} {
		if err := os.WriteFile(dir(name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	script := strings.Join([]string{"hostname " + m.Name, "mount --bind " + dir("hosts") + " /etc/hosts",
		"exec " + filepath.Join(files, "usr/libexec/sendmail/sendmail") + " -bD -q2s -C " + dir("sendmail.cf")}, "\n")
	if m.Postfix, err = m.Host.Start("unshare", "--mount", "--uts", "--propagation", "private", "sh", "-c", script); err != nil {
		return err
	}
	return Until(20*time.Second, func() error {
		return m.Host.Do("bash", "-c", "exec 3<>/dev/tcp/::1/25 && read -t 3 -u 3 line")
	})
}

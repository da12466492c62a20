package main

import (
	"context"
	"crypto/rand"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"brightgid/internal/identityfile"
	"brightgid/ledgeranchor"
	"brightgid/ledgeranchor/embedded"
	"brightgid/mail"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"tracectl": main})
}

// The scripts use the command as a user does.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("GORACE", "atexit_sleep_ms=0") // else each command waits a second for races at its end
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"hop": hopCommand},
	})
}

// hopCommand does what a relay does with a message: hop IDENTITY LEDGER MESSAGE STAGE NEXT.
func hopCommand(ts *testscript.TestScript, _ bool, args []string) {
	check := func(err error) {
		if err != nil {
			ts.Fatalf("hop: %v", err)
		}
	}
	identity, ledger, file, stage, next := args[0], args[1], args[2], args[3], args[4]
	id, err := identityfile.Read(ts.MkAbs(identity))
	check(err)
	author, err := ledgeranchor.NewAuthor(id.Key, id.Certificate)
	check(err)
	text := ts.ReadFile(file)
	m, err := mail.ReadMessage(strings.NewReader(text))
	check(err)
	n := mail.Next{Relay: id.Certificate.Subject.CommonName, Stage: ledgeranchor.StageDelivery, At: time.Now(), To: strings.TrimSuffix(next, "-")}
	added := ""
	var chain *mail.Chain
	switch stage {
	case "request":
		n.Stage = ledgeranchor.StageRequest
		salt, err := mail.NewSalt(rand.Reader)
		check(err)
		s := &mail.Source{Address: netip.MustParseAddr("2001:db8:1:0:c7e2:7e0b:911e:c94b"), Realm: "isp.example", Live: mail.LivePass, At: time.Now().Truncate(time.Second), Salt: salt, Fields: m.Content.Names()}
		chain, err = mail.NewChain(s)
		check(err)
		value, err := s.Format()
		check(err)
		added = mail.SourceField + ": " + value + "\n"
	case "confirmation":
		n.Stage = ledgeranchor.StageConfirmation
		fallthrough
	default:
		chain, err = m.Chain()
		check(err)
	}
	n.Content = m.Content.Sum(chain.Source.Fields)
	n.Envelope.From = chain.Source.Salt.TagOf(mail.RoleFrom, "alice@example.org")
	n.Envelope.To = []mail.Tag{chain.Source.Salt.TagOf(mail.RoleTo, "bob@example.net")}
	value, record, _, err := chain.Append(author, n)
	check(err)
	check(os.WriteFile(ts.MkAbs(file), []byte(mail.HopField+": "+value+"\n"+added+text), 0o644))
	l, err := embedded.Open(context.Background(), ts.MkAbs(ledger), embedded.Options{})
	check(err)
	intro, err := author.Introduce()
	check(err)
	_, err = l.Append(context.Background(), intro)
	check(err)
	_, err = l.Append(context.Background(), record)
	check(err)
	check(l.Close())
}

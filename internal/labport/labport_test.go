package labport

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// taker is set in a process that takes a port, prints it and waits.
const taker = "GID_LABPORT_TAKER"

func TestMain(m *testing.M) {
	if os.Getenv(taker) != "" {
		port, err := Take("127.0.0.1")
		fmt.Println(port, err)
		_, _ = os.Stdin.Read(make([]byte, 1)) // until the test closes it
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestNoPortIsTakenTwice(t *testing.T) {
	seen := make(map[int]bool)
	for range 500 {
		port, err := Take("127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		if seen[port] || port < first || port >= after {
			t.Fatalf("port %d, after %d others", port, len(seen))
		}
		seen[port] = true
	}
}

func TestAPortInUseIsNotTaken(t *testing.T) {
	// Another listens.
	port, err := Take("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		t.Fatalf("the port that was taken is not free: %v", err)
	}
	defer l.Close()
	mu.Lock() // as if this process had not taken it
	c := claims[len(claims)-1]
	claims = claims[:len(claims)-1]
	mu.Unlock()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if free, err := claim("127.0.0.1", port); free || err != nil {
		t.Errorf("a port that somebody listens on: %v, %v", free, err)
	}

	// Another process took it and does not listen yet.
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), taker+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 64)
	n, _ := out.Read(b) // what it lacks is found next
	word, _, _ := strings.Cut(string(b[:n]), " ")
	other, err := strconv.Atoi(word)
	if err != nil {
		t.Errorf("the other process wrote %q", b[:n])
	} else if free, err := claim("127.0.0.1", other); free || err != nil {
		t.Errorf("a port that another process took: %v, %v", free, err)
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if free, err := claim("127.0.0.1", other); !free || err != nil {
		t.Errorf("a port of a process that ended: %v, %v", free, err)
	}
}

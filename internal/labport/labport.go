// Package labport finds ports of loopback for the programs that the labs start, which
// take a port by its number and listen there some time later.
package labport

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"syscall"
)

// The ports are below those that the kernel gives to whoever connects or asks for any
// port (ip_local_port_range, by default from 32768 on): one of those may be in use again
// before the program listens there, or while it is being started anew.
const first, after = 20000, 30000

// claims hold the ports that this process took: sockets with abstract names, which Linux
// removes when the process ends.
var (
	mu     sync.Mutex
	claims []net.Listener
)

// Take returns a TCP port of the host, an address of this machine, on which nobody
// listens. No other process that asks this package is given the port before this
// process ends.
func Take(host string) (int, error) {
	from := rand.IntN(after - first)
	for i := range after - first {
		port := first + (from+i)%(after-first)
		free, err := claim(host, port)
		if free || err != nil {
			return port, err
		}
	}
	return 0, fmt.Errorf("no port of %s is free from %d to %d", host, first, after-1)
}

func name(port int) string { return fmt.Sprintf("@gid-labport-%d", port) }

// claim takes one port, and reports whether it was free.
func claim(host string, port int) (bool, error) {
	c, err := net.Listen("unix", name(port))
	if errors.Is(err, syscall.EADDRINUSE) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err == nil {
		if err = l.Close(); err == nil {
			mu.Lock()
			defer mu.Unlock()
			claims = append(claims, c)
			return true, nil
		}
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		err = nil
	}
	return false, errors.Join(err, c.Close())
}

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"text/tabwriter"
	"time"

	"brightgid/internal/control"

	"github.com/spf13/cobra"

	"brightgid/internal/cli"
	"brightgid/lease"
)

func leasesCommand() *cobra.Command {
	var file *string
	var asJSON, all, follow bool
	var address string
	var subscriber int64
	c := &cobra.Command{
		Use:   "leases",
		Short: "List the leases",
		Long: `List the leases, of a server that runs or from the database of one that does
not. A lease names its subscriber by number; who that is, only a warrant tells. An address
that a client made itself and told of (RFC 9686) is "registered". A delegated prefix is
listed with its length.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := load(*file)
			if err != nil {
				return err
			}
			var want netip.Addr
			if address != "" {
				if want, err = netip.ParseAddr(address); err != nil {
					return cli.Usagef("--address: %q is no address", address)
				}
			}
			out := tabwriter.NewWriter(c.OutOrStdout(), 0, 8, 2, ' ', 0)
			enc := json.NewEncoder(c.OutOrStdout())
			if !asJSON {
				fmt.Fprintln(out, "ADDRESS\tSUBSCRIBER\tSLOT\tEPOCH\tSTATE\tVALID UNTIL\tDUID\tIAID")
			}
			err = s.eachLease(c, follow, func(v leaseView) error {
				switch {
				case want.IsValid() && !v.leased().Contains(want), subscriber >= 0 && v.Subscriber != uint64(subscriber), !all && v.State != lease.Active.String() && v.State != lease.Registered.String():
					return nil
				case asJSON:
					return enc.Encode(v)
				}
				if follow {
					defer out.Flush()
				}
				_, err := fmt.Fprintf(out, "%s\t%d\t%d\t%d\t%s\t%s\t%s\t%d\n", &v, v.Subscriber, v.Slot, v.Epoch, v.State, v.ValidUntil.Format(time.RFC3339), v.DUID, v.IAID)
				return err
			})
			return errors.Join(err, out.Flush())
		},
	}
	file = configFlag(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print a JSON object a line")
	c.Flags().BoolVar(&all, "all", false, "list ended and declined leases as well")
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on with leases that change, until interrupted")
	c.Flags().StringVar(&address, "address", "", "only the lease of an `address`, or of the prefix that it is in")
	c.Flags().Int64Var(&subscriber, "subscriber", -1, "only leases of a subscriber `number`")
	return c
}

// eachLease asks the server that runs, or reads the database if none does.
func (s *setup) eachLease(c *cobra.Command, follow bool, f func(leaseView) error) error {
	conn, err := net.Dial("unix", s.controlPath())
	if err != nil && follow {
		return fmt.Errorf("no server is running, whose leases could be followed: %w", err)
	}
	if err != nil {
		var stopped error // by f
		if err := s.eachLeaseAtRest(c.Context(), func(l lease.Lease) error {
			stopped = f(showLease(&l))
			return stopped
		}); err != nil && stopped == nil {
			return fmt.Errorf("no server is running, and its database cannot be read: %w", err)
		}
		return stopped
	}
	conn.Close()
	url := "http://gidserver/leases"
	if follow {
		url += "?follow"
	}
	req, err := http.NewRequestWithContext(c.Context(), http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := control.Client(s.controlPath()).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for d := json.NewDecoder(resp.Body); ; {
		var v leaseView
		if err := d.Decode(&v); err == io.EOF || err != nil && follow && c.Context().Err() != nil {
			return nil // the end, or enough was followed
		} else if err != nil {
			return fmt.Errorf("the list of leases was cut off: %w", err)
		}
		if err := c.Context().Err(); err != nil {
			return err
		}
		if err := f(v); err != nil {
			return err
		}
	}
}

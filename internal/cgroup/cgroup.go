// Package cgroup tells what the control groups that a process is in (cgroups(7)) let it use.
package cgroup

import (
	"io/fs"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Where the hierarchies that limit processor time are: of version 2, and of 1.
const (
	unified   = "sys/fs/cgroup"
	cpuGroups = "sys/fs/cgroup/cpu"
)

// Processors returns of how many processors this process may use the time, which may be less than one: the least that one of its control
// groups or of those above them says (cpu.max of version 2; cpu.cfs_quota_us and cpu.cfs_period_us of version 1). It is infinity where
// none says so, or cannot be read. Root is the directory that proc and sys are in.
//
// Go's runtime rounds the same limit up, to two processors at least.
func Processors(root fs.FS) float64 {
	limit := math.Inf(1)
	groups, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return limit
	}
	for line := range strings.Lines(string(groups)) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3) // number, controllers, path
		if len(fields) != 3 {
			continue
		}
		top, read := unified, version2
		if fields[1] != "" {
			if !slices.Contains(strings.Split(fields[1], ","), "cpu") {
				continue
			}
			top, read = cpuGroups, version1
		}
		// A container may see its own group at the top, and a path that leads nowhere there.
		for group := path.Join("/", fields[2]); ; group = path.Dir(group) {
			limit = min(limit, read(root, path.Join(top, group)))
			if group == "/" {
				break
			}
		}
	}
	return limit
}

func version2(root fs.FS, dir string) float64 {
	b, err := fs.ReadFile(root, path.Join(dir, "cpu.max"))
	if err != nil {
		return math.Inf(1)
	}
	quota, period, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
	return ratio(quota, period)
}

func version1(root fs.FS, dir string) float64 {
	quota, err1 := fs.ReadFile(root, path.Join(dir, "cpu.cfs_quota_us"))
	period, err2 := fs.ReadFile(root, path.Join(dir, "cpu.cfs_period_us"))
	if err1 != nil || err2 != nil {
		return math.Inf(1)
	}
	return ratio(strings.TrimSpace(string(quota)), strings.TrimSpace(string(period)))
}

// ratio is infinity where the quota is no number ("max") or none ("-1").
func ratio(quota, period string) float64 {
	q, err1 := strconv.ParseUint(quota, 10, 63)
	p, err2 := strconv.ParseUint(period, 10, 63)
	if err1 != nil || err2 != nil || q == 0 { // a period of none gives infinity, too
		return math.Inf(1)
	}
	return float64(q) / float64(p)
}

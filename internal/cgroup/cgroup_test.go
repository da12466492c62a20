package cgroup

import (
	"math"
	"os"
	"testing"
	"testing/fstest"
)

func TestProcessors(t *testing.T) {
	none := math.Inf(1)
	for name, c := range map[string]struct {
		files map[string]string
		want  float64
	}{
		"no control groups":            {nil, none},
		"version 2":                    {map[string]string{"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "150000 100000\n"}, 1.5},
		"no limit":                     {map[string]string{"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, none},
		"the group above has less":     {map[string]string{"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "150000 100000\n", "sys/fs/cgroup/a/cpu.max": "1250 10000\n"}, 0.125},
		"the group above has more":     {map[string]string{"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "50000 100000\n", "sys/fs/cgroup/a/cpu.max": "400000 100000\n"}, 0.5},
		"another group's is not ours":  {map[string]string{"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/b/cpu.max": "50000 100000\n"}, none},
		"its own group at the top":     {map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2},
		"above the top":                {map[string]string{"proc/self/cgroup": "0::/../../a\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2},
		"version 1":                    {map[string]string{"proc/self/cgroup": "3:memory:/m\n2:cpu,cpuacct:/a\n0::/\n", "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "2500\n", "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "10000\n"}, 0.25},
		"version 1, no limit":          {map[string]string{"proc/self/cgroup": "2:cpu:/a\n", "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "10000\n"}, none},
		"version 1, a path of outside": {map[string]string{"proc/self/cgroup": "2:cpu:/docker/a\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "30000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "10000\n"}, 3},
		"cpuset is not cpu":            {map[string]string{"proc/self/cgroup": "2:cpuset:/a\n", "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "30000\n", "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "10000\n"}, none},
		"a colon in a path":            {map[string]string{"proc/self/cgroup": "0::/a:b\n", "sys/fs/cgroup/a:b/cpu.max": "150000 100000\n"}, 1.5},
		"what nobody can read":         {map[string]string{"proc/self/cgroup": "\n0::\nx\n0::/a\n", "sys/fs/cgroup/a/cpu.max": "1 0\n"}, none},
		"a limit of nothing":           {map[string]string{"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "0 100000\n"}, none},
	} {
		root := make(fstest.MapFS)
		for path, text := range c.files {
			root[path] = &fstest.MapFile{Data: []byte(text)}
		}
		if got := Processors(root); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestProcessorsOfThisProcess(t *testing.T) {
	if n := Processors(os.DirFS("/")); !(n > 0) {
		t.Errorf("%v processors", n)
	}
}

package netlab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// sharePeriod is how long a time the kernel divides a processor's time in, for processes that have a share of it.
const sharePeriod = 10 * time.Millisecond

// Where the hierarchies of control groups are that can limit processor time: of version 2, and of 1 (cgroups(7)).
const (
	unified   = "/sys/fs/cgroup"
	cpuGroups = "/sys/fs/cgroup/cpu"
)

// Share lets a process, and those that it starts from then on, use so much of one processor's time and no more: of a
// period of 10 ms the kernel gives it that part, on whatever processors (sched-bwc of the kernel's documentation). It
// ends with the lab.
func (l *Lab) Share(pid int, part float64) error {
	period, quota := sharePeriod.Microseconds(), int64(part*float64(sharePeriod.Microseconds()))
	top, limits := unified, map[string]string{"cpu.max": fmt.Sprintf("%d %d", quota, period)}
	if _, err := os.Stat(filepath.Join(cpuGroups, "cpu.cfs_quota_us")); err == nil {
		top, limits = cpuGroups, map[string]string{"cpu.cfs_period_us": strconv.FormatInt(period, 10), "cpu.cfs_quota_us": strconv.FormatInt(quota, 10)}
	} else if err := os.WriteFile(filepath.Join(top, "cgroup.subtree_control"), []byte("+cpu"), 0); err != nil {
		return fmt.Errorf("a share of a processor needs control groups that limit it: %w", err)
	}
	dir := filepath.Join(top, fmt.Sprintf("%s-share%d", l.id, pid))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	l.mu.Lock()
	l.groups = append(l.groups, dir)
	l.mu.Unlock()
	var errs []error
	for file, value := range limits {
		errs = append(errs, os.WriteFile(filepath.Join(dir, file), []byte(value), 0))
	}
	return errors.Join(append(errs, os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0))...)
}

// SeesShare is a command that runs another, which sees the control groups that [Lab.Share] makes, as a process does that is not in a
// namespace of ip-netns(8): that has a /sys of its own, in which there are none.
func SeesShare() []string {
	mount := "mount -t cgroup2 none " + unified
	if _, err := os.Stat(filepath.Join(cpuGroups, "cpu.cfs_quota_us")); err == nil {
		mount = "mount -t tmpfs none " + unified + " && mkdir " + cpuGroups + " && mount -t cgroup -o cpu none " + cpuGroups
	}
	return []string{"sh", "-c", mount + " && exec \"$@\"", "sh"}
}

// removeGroup removes a control group whose processes have ended, which the kernel may find a moment later than who
// waited for them.
func removeGroup(dir string) (err error) {
	for range 100 {
		if err = os.Remove(dir); err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

// sweepGroups removes control groups whose owners are no more.
func sweepGroups() {
	for _, top := range []string{unified, cpuGroups} {
		dirs, err := filepath.Glob(filepath.Join(top, namePrefix+"*"))
		if err != nil {
			continue
		}
		for _, d := range dirs {
			if dead(filepath.Base(d)) {
				_ = os.Remove(d)
			}
		}
	}
}

package worker

import (
	"time"

	"github.com/bightdev/bight/internal/change/suite"
	"github.com/bightdev/bight/internal/change/work"
)

// limits are what the tests of an order may use.
func limits(o work.Order) suite.Limits {
	l := o.Policy.Tests
	return suite.Limits{
		Test: time.Duration(l.Seconds) * time.Second, Total: o.Timeout,
		Processes: int(l.Processes), Memory: l.Memory, Disk: l.Disk,
	}
}

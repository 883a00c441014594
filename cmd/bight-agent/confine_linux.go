package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/bightdev/bight/internal/agent/confine"
)

// runConfine runs a program within limits and exits with its code.
func runConfine(args []string, stderr io.Writer) int {
	f := flag.NewFlagSet("agent confine", flag.ContinueOnError)
	r := &confine.Run{}
	f.IntVar(&r.Processes, "processes", 2048, "processes and threads at once")
	f.Int64Var(&r.Disk, "disk", 2<<30, "`bytes` of files in the temporary directory")
	f.DurationVar(&r.Time, "time", 10*time.Minute, "from the start to the end")
	f.StringVar(&r.Temp, "temp", "/tmp", "the temporary `directory`")
	f.StringVar(&r.Report, "report", "/dev/termination-log", "`file` that gets the limit that was exceeded")
	if code, ok := parse(f, args, stderr); !ok {
		return code
	}
	r.Command = f.Args()
	code, err := r.Do(context.Background())
	if err != nil {
		fmt.Fprintln(stderr, "agent confine:", err)
		return failed
	}
	return code
}

package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/atomicfile"
	"github.com/bightdev/bight/internal/bridge"
	change "github.com/bightdev/bight/internal/change/client"
	"github.com/bightdev/bight/internal/release/evidence"
	"github.com/bightdev/bight/internal/replay"
	"github.com/bightdev/bight/internal/replay/calls"
	"github.com/bightdev/bight/internal/ui/term"
)

// replayFlags are the flags of bight replay, and of those that replay for another reason.
type replayFlags struct {
	releaseFlags
	to, save                string
	record, recorded        string
	port                    int
	headers                 []string
	all, strict, once, bare bool
}

func (f *replayFlags) flags(p *Program, c *cobra.Command) {
	f.releaseFlags.flags(p, c)
	c.Flags().Lookup("namespace").Usage = "namespace of the release (default: the context's)"
	c.Flags().IntVar(&f.port, "port", 0, "port of COMMAND (default: that of the service's container)")
	c.Flags().StringArrayVarP(&f.headers, "header", "H", nil, "header to send with each request, NAME=VALUE: in place of one that was hidden, for example")
	c.Flags().BoolVar(&f.all, "all", false, "send requests that could change something, too: POST, PUT, DELETE and such")
	c.Flags().BoolVar(&f.strict, "strict", false, "an answer whose body differs from stable's fails")
	c.Flags().BoolVar(&f.bare, "alone", false, "run COMMAND as it is, without the cluster's network and the pod's environment; with --recorded, in a network of its own that has nothing but the recording")
	c.Flags().StringVar(&f.recorded, "recorded", "", "answer what COMMAND asks of other services from this file, which --record of bight replay has written")
}

func (p *Program) replayCommand() *cobra.Command {
	var f replayFlags
	c := &cobra.Command{
		Use:   "replay RELEASE|FILE [flags] [-- COMMAND [ARG...]]",
		Short: "Ask a program here what convicted a release",
		Long: `Send the requests that convicted a release to the code on this machine, and say for
each whether it passes now: whether it is answered as stable has answered it, or, where
that is not known, without an error. Again after each save, until Ctrl-C; with --once,
once, and the exit code is 1 if a request fails.

RELEASE is a release, or a Deployment, which means its newest release that has
evidence; FILE is what --save-test has written. Without a COMMAND and --to, the
evidence is shown.

COMMAND runs as though it were in the service's pod (see bight run): what it asks of
other services is answered by those in the cluster. It is started anew after each save.
With --alone, and where the evidence is a FILE's, it runs without the cluster.
With --to, the requests go to a program that runs already.

With --record, what COMMAND asks of other services by HTTP, and what they answer, is
written to a file, without what is secret, after each round. With --recorded it is
answered from that file: always the same, whatever the cluster has become, and with
--alone without any network. A request for which COMMAND asks what the file does not
know tells nothing, unless it passes. What is no HTTP in the clear, a database for
example, is asked live, and with --alone refused.

What is secret was never kept: headers by which users are known, fields with names such
as password and token, texts that look like keys. --header gives a header again.
Requests that could change something are not sent without --all.`,
		Example: `  bight replay cart
  bight replay cart -- go run ./cmd/cart
  bight replay cart --to http://localhost:8080 --header "Authorization=Bearer $TOKEN"
  bight replay cart --save-test
  bight replay cart --record calls.json -- go run ./cmd/cart
  bight replay cart --recorded calls.json -- go run ./cmd/cart
  bight replay testdata/replay/cart-7.json --once -- go run ./cmd/cart`,
		RunE: func(c *cobra.Command, args []string) error {
			name, command, err := split(c, args)
			if err != nil {
				return err
			}
			return p.replay(c.Context(), &f, name, command)
		},
		ValidArgsFunction: completeReleases(&f.target),
	}
	f.flags(p, c)
	c.Flags().StringVar(&f.to, "to", "", "URL of a program that runs already: http://HOST:PORT")
	c.Flags().BoolVar(&f.once, "once", false, "send the requests once, and end")
	c.Flags().StringVar(&f.record, "record", "", "write what COMMAND asks of other services, and their answers, to this file after each round")
	c.Flags().StringVar(&f.save, "save-test", "", "write the evidence to a file in this directory: the next change must pass it in its preview")
	c.Flags().Lookup("save-test").NoOptDefVal = replay.TestDir
	return c
}

// split takes the one name before -- and the command after it.
func split(c *cobra.Command, args []string) (name string, command []string, err error) {
	before := args
	if dash := c.ArgsLenAtDash(); dash >= 0 {
		before, command = args[:dash], args[dash:]
		if len(command) == 0 {
			return "", nil, usageError("%s: there is no command after --", c.CommandPath())
		}
	}
	switch len(before) {
	case 0:
		return "", nil, usageError("%s: name a release or a Deployment; bight release history lists them", c.CommandPath())
	case 1:
		return before[0], command, nil
	}
	return "", nil, usageError("%s takes one release, not %q; a command to run comes after --", c.CommandPath(), before)
}

// check refuses flags that make no sense together.
func (f *replayFlags) check(command []string) (http.Header, error) {
	switch {
	case f.to != "" && len(command) > 0:
		return nil, usageError("--to is for a program that runs already: leave out the command, or --to")
	case len(command) == 0 && (f.bare || f.port != 0):
		return nil, usageError("--alone and --port are about the command, which is missing: name it after --")
	case f.to != "" && f.record+f.recorded != "", len(command) == 0 && f.record+f.recorded != "":
		return nil, usageError("--record and --recorded are about what a command asks that is started here: name it after --")
	case f.record != "" && f.recorded != "":
		return nil, usageError("--record writes what --recorded reads: give one of them")
	case f.record != "" && f.bare:
		return nil, usageError("--record %s: what is alone asks nobody; leave out --alone", f.record)
	case strings.HasSuffix(filepath.ToSlash(filepath.Dir(filepath.Join(".", f.record))), replay.TestDir):
		return nil, usageError("--record %s: what is in %s is asked of previews; name a file elsewhere", f.record, replay.TestDir)
	case f.port < 0 || f.port > 65535:
		return nil, usageError("--port %d: a port is between 1 and 65535", f.port)
	}
	if f.to != "" {
		u, err := url.Parse(f.to)
		if err != nil || u.Scheme != "http" || u.Host == "" || strings.Trim(u.Path, "/") != "" {
			return nil, usageError("--to %s: give http://HOST:PORT", f.to)
		}
	}
	h := http.Header{}
	for _, text := range f.headers {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return nil, usageError("--header %s: give NAME=VALUE", text)
		}
		h.Add(name, value)
	}
	return h, nil
}

// stage reads the evidence, and makes ready to play it.
func (p *Program) stage(ctx context.Context, f *replayFlags, name string, command []string) (*stage, error) {
	header, err := f.check(command)
	if err != nil {
		return nil, err
	}
	s := &stage{
		p: p, f: f, printer: p.printer(f.output == "json", nil), command: command,
		player: &replay.Player{Header: header, All: f.all, Strict: f.strict},
	}
	if f.recorded != "" {
		if s.recording, err = readRecording(f.recorded); err != nil {
			return nil, errors.Join(err, s.printer.Close())
		}
	}
	var plan *v1alpha1.ReleaseEvidence
	if s.bundle, plan, err = p.evidence(ctx, f, name, s.printer); err != nil {
		return nil, errors.Join(err, s.printer.Close())
	}
	if s.isFile = plan == nil; !s.isFile {
		s.keeps = *plan
	}
	if err := recordable(f.record, s.keeps); err != nil {
		return nil, errors.Join(err, s.printer.Close())
	}
	s.pairs = replay.Of(s.bundle)
	return s, nil
}

func (p *Program) replay(ctx context.Context, f *replayFlags, name string, command []string) error {
	s, err := p.stage(ctx, f, name, command)
	if err != nil {
		return err
	}
	b, printer := s.bundle, s.printer
	defer printer.Close()
	if f.save != "" {
		if err := saveTest(printer, b, f.save); err != nil || len(command) == 0 && f.to == "" {
			return err
		}
	}
	if len(command) == 0 && f.to == "" {
		return p.showEvidence(printer, b, f.output == "json")
	}
	leave, err := s.set(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if f.output != "json" {
		printer.Note("", headline(b, time.Now()))
		if other := otherwise(b.Differs); len(other) > 0 && len(command) > 0 {
			printer.Note("", "the version was configured otherwise than stable, which the command here is not: "+strings.Join(other, "; "))
		}
	}
	return s.run(ctx)
}

// set makes ready what the command is run in: the cluster, unless the evidence is a file's
// or the command is to be alone.
func (s *stage) set(ctx context.Context) (leave func(), err error) {
	if len(s.pairs) == 0 {
		return nil, fmt.Errorf("nothing was kept of requests for release %s: there is nothing to replay (bight replay %[1]s shows what is known)", s.bundle.Release)
	}
	s.order = bridge.Order{Command: s.command, Env: os.Environ()}
	s.order.Stderr, _ = s.p.Stderr.(*os.File)
	if s.order.Stdout, _ = s.p.Stdout.(*os.File); s.f.output == "json" {
		s.order.Stdout = s.order.Stderr
	}
	if s.recording != nil && s.recording.Release != s.bundle.Release {
		s.printer.Note("", fmt.Sprintf("%s was recorded with the requests of %s: what it knows of those of %s may be little", s.f.recorded, s.recording.Release, s.bundle.Release))
	}
	switch {
	case s.isFile && s.f.record != "":
		return nil, usageError("--record %s: evidence of a file is replayed without the cluster, where nothing can be asked; name the release", s.f.record)
	case len(s.command) == 0 || s.f.bare || s.isFile:
		return func() {}, nil
	}
	if s.f.record != "" {
		if err := atomicfile.Ready(s.f.record); err != nil {
			return nil, fmt.Errorf("--record %s: that can't be written: %w", s.f.record, err)
		}
	}
	t := s.f.target
	t.namespace = cmp.Or(t.namespace, s.bundle.Namespace)
	of, err := s.p.subject(ctx, &t, "", "deployment/"+s.bundle.Deployment, s.printer)
	if err != nil {
		return nil, err
	}
	if leave, err = of.admit(ctx, nil, true); err != nil {
		return nil, err
	}
	s.bridge, s.order.Service = of.bridge, of.name
	return leave, nil
}

// evidence reads a file, or asks the controller. plan is what the release's says of it, nil
// for a file.
func (p *Program) evidence(ctx context.Context, f *replayFlags, name string, printer *term.Printer) (b *evidence.Bundle, plan *v1alpha1.ReleaseEvidence, err error) {
	if strings.ContainsAny(name, `/\`) || strings.HasSuffix(name, ".json") {
		text, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil, codedError{code: exitNotFound, err: fmt.Errorf("there is no file %s: bight replay RELEASE --save-test writes one", name)}
		}
		if err == nil {
			b, err = evidence.Read(text)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("read %s: %w", name, err)
		}
		return b, nil, nil
	}
	of, all, err := p.kept(ctx, &f.target, name, printer, func(to *change.Client, r *v1alpha1.Release) (err error) {
		b, err = to.Evidence(ctx, r.Namespace, r.Name)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	if of != nil {
		return b, &of.Spec.Plan.Evidence, nil
	}
	why := "requests are kept when a version is undone, for a week"
	if r := all[0]; !r.Status.Convicted && r.Status.Ended == nil {
		why = "it is under way: " + why
	}
	return nil, nil, codedError{code: exitNotFound, err: fmt.Errorf("there is no evidence of %s in namespace %s: %s", name, all[0].Namespace, why)}
}

// readRecording reads what --record has written.
func readRecording(name string) (*calls.Recording, error) {
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, codedError{code: exitNotFound, err: fmt.Errorf("there is no file %s: bight replay RELEASE --record %[1]s -- COMMAND writes one", name)}
	}
	var r *calls.Recording
	if err == nil {
		r, err = calls.Read(text)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return r, nil
}

// saveTest writes a bundle to where the next change's preview finds it.
func saveTest(printer *term.Printer, b *evidence.Bundle, dir string) error {
	file := filepath.Join(dir, b.Release+".json")
	text, n, err := replay.Test(b)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(file, text, 0o644); err != nil {
		return err
	}
	printer.Note("", fmt.Sprintf("%s has %s; look at what is in it, commit it, and the next change's preview must answer %s", file, term.Count(n, "request"), them(n)))
	return nil
}

func them(n int) string {
	if n == 1 {
		return "it"
	}
	return "them"
}

// dialTo connects to a program that runs already.
func dialTo(to string) func(context.Context, int) (net.Conn, error) {
	u, _ := url.Parse(to) // it was checked
	address := net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "80"))
	return func(ctx context.Context, _ int) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	}
}

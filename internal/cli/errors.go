package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/app/detect"
	"github.com/bightdev/bight/internal/app/project"
	"github.com/bightdev/bight/internal/bridge"
	"github.com/bightdev/bight/internal/bridge/permit"
	"github.com/bightdev/bight/internal/change/client"
	"github.com/bightdev/bight/internal/deploy"
	"github.com/bightdev/bight/internal/install"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/session"
)

// Exit codes, as README.md and bight --help document them.
const (
	exitFailed       = 1
	exitUsage        = 2
	exitNotPermitted = 3
	exitNotFound     = 4
	exitTimedOut     = 5
	exitInterrupted  = 130
)

// codedError is an error with an exit code of its own.
type codedError struct {
	code   int
	err    error
	silent bool // it was reported already
}

func (e codedError) Error() string { return e.err.Error() }
func (e codedError) Unwrap() error { return e.err }

func usageError(format string, args ...any) error {
	return codedError{code: exitUsage, err: fmt.Errorf(format, args...)}
}

// exitCode is the one place that turns an error into an exit code.
func exitCode(ctx context.Context, err error) int {
	var coded codedError
	var rollout *deploy.RolloutError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &coded):
		return coded.code
	case errors.Is(ctx.Err(), context.Canceled):
		return exitInterrupted
	case errors.As(err, &rollout) && len(rollout.Failures) > 0:
		if slices.ContainsFunc(rollout.Failures, func(f *deploy.Failure) bool { return f.Cause != deploy.CauseRefused }) {
			return exitFailed
		}
		return exitNotPermitted
	case isWrongInput(err):
		return exitUsage
	case isRefusal(err):
		return exitNotPermitted
	case errors.As(err, new(*session.UnknownServiceError)), errors.As(err, new(*permit.MissingError)), errors.Is(err, bridge.ErrNoPod), kube.KindOf(err) == kube.NotFound, apierrors.IsNotFound(err):
		return exitNotFound
	case errors.Is(err, context.DeadlineExceeded), apierrors.IsTimeout(err):
		return exitTimedOut
	}
	return exitFailed
}

// isWrongInput tells what was refused before anything was changed, for what the
// user wrote makes no plan.
func isWrongInput(err error) bool {
	return errors.Is(err, detect.ErrNoService) ||
		errors.As(err, new(*app.InvalidError)) ||
		errors.As(err, new(*project.Error)) ||
		errors.As(err, new(*session.QuestionsError)) ||
		errors.As(err, new(*kube.ConfigError)) ||
		errors.As(err, new(*deploy.FileExistsError)) ||
		errors.As(err, new(*install.ResizeError))
}

// isRefusal tells rights, quotas, policies and the guard of contexts.
func isRefusal(err error) bool {
	switch kube.KindOf(err) {
	case kube.Forbidden, kube.Policy, kube.Quota, kube.Credentials:
		return true
	}
	if answer, ok := errors.AsType[*client.AnswerError](err); ok {
		return answer.Status == http.StatusForbidden || answer.Status == http.StatusUnauthorized
	}
	return errors.As(err, new(*kube.GuardError)) ||
		errors.As(err, new(*deploy.RightsError)) ||
		errors.As(err, new(*deploy.RefusedError)) ||
		apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err)
}

// wantsJSON reports whether args ask for JSON, even where they are wrong
// otherwise.
func wantsJSON(args []string) bool {
	for i, a := range args {
		switch {
		case a == "--":
			return false
		case slices.Contains([]string{"-ojson", "-o=json", "--output=json"}, a):
			return true
		case (a == "-o" || a == "--output") && i+1 < len(args) && args[i+1] == "json":
			return true
		}
	}
	return false
}

// report says on stderr what went wrong, unless that was done already.
func (p *Program) report(err error, code int, asJSON bool) {
	if err == nil {
		return
	}
	var coded codedError
	if errors.As(err, &coded) && coded.silent {
		return
	}
	text := printable(untold(err))
	if code == exitInterrupted {
		text = "interrupted"
	}
	if text == "" {
		return
	}
	if !asJSON {
		if code != exitInterrupted {
			text = "error: " + text
		}
		fmt.Fprintln(p.Stderr, strings.ReplaceAll(text, "\n", "\n  "))
		return
	}
	e := json.NewEncoder(p.Stderr)
	e.SetEscapeHTML(false)
	_ = e.Encode(struct { // nobody is left to tell that stderr is gone
		Time     time.Time `json:"time"`
		Type     string    `json:"type"`
		Error    string    `json:"error"`
		ExitCode int       `json:"exitCode"`
	}{time.Now().Round(time.Millisecond), "error", text, code})
}

// untold is the text of what of err was not shown while it happened: neither what
// the session reported, nor each service's failure in a rollout, which is summed
// up.
func untold(err error) string {
	var texts []string
	var rollout *deploy.RolloutError
	for _, part := range parts(err) {
		switch {
		case errors.As(part, &rollout) && rollout.Err == nil:
			texts = append(texts, notReady(rollout))
		case session.IsReported(part):
		default:
			texts = append(texts, part.Error())
		}
	}
	return strings.Join(texts, "\n")
}

// parts takes apart what errors.Join put together.
func parts(err error) []error {
	if _, ok := err.(*deploy.RolloutError); ok {
		return []error{err}
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || errors.Join(joined.Unwrap()...).Error() != err.Error() {
		return []error{err}
	}
	var all []error
	for _, part := range joined.Unwrap() {
		all = append(all, parts(part)...)
	}
	return all
}

// notReady names the services that failed.
func notReady(e *deploy.RolloutError) string {
	var names []string
	for _, f := range e.Failures {
		if !slices.Contains(names, f.Service) {
			names = append(names, f.Service)
		}
	}
	return fmt.Sprintf("%s cannot become ready, for the reason above; what is deployed stays as it is until bight up or bight down runs again",
		strings.Join(names, ", "))
}

// printable keeps control characters, which a file's name or a cluster's answer
// may have, from the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return '\uFFFD'
	}, s)
}

package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/app/project"
	changes "github.com/bightdev/bight/internal/change/client"
	"github.com/bightdev/bight/internal/deploy"
	"github.com/bightdev/bight/internal/install"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/release/client"
	"github.com/bightdev/bight/internal/session"
)

func TestExitCodes(t *testing.T) {
	crash := &deploy.RolloutError{Failures: []*deploy.Failure{{Service: "cart", Cause: deploy.CauseCrash}}}
	quota := &deploy.RolloutError{Failures: []*deploy.Failure{{Service: "cart", Cause: deploy.CauseRefused}}}
	late := &deploy.RolloutError{Err: context.DeadlineExceeded}
	tests := []struct {
		name string
		err  error
		want int
	}{
		{"none", nil, 0},
		{"any", errors.New("broken"), 1},
		{"a crash", crash, 1},
		{"a crash that was told", fmt.Errorf("deploy: %w", errors.Join(crash)), 1},
		{"pods that a quota refuses", quota, 3},
		{"a rollout that took too long", late, 5},
		{"bight.yaml", errors.Join(&project.Error{Line: 3, Text: "unknown field"}), 2},
		{"an app that breaks rules", &app.InvalidError{Problems: []error{errors.New("two services")}}, 2},
		{"a volume that would shrink", fmt.Errorf("install: %w", &install.ResizeError{Err: errors.New("no")}), 2},
		{"open questions", &session.QuestionsError{}, 2},
		{"no kubeconfig", &kube.ConfigError{Text: "none"}, 2},
		{"a refused context", &kube.GuardError{}, 3},
		{"missing rights", &deploy.RightsError{}, 3},
		{"an object that a policy refuses", &deploy.RefusedError{Err: errors.New("no")}, 3},
		{"credentials", &kube.Error{Kind: kube.Credentials}, 3},
		{"a right", &kube.Error{Kind: kube.Forbidden}, 3},
		{"what the controller does not allow", fmt.Errorf("read: %w", &changes.AnswerError{Status: 403}), 3},
		{"what the controller does not know", &changes.AnswerError{Status: 500}, 1},
		{"an order that a policy refuses", releaseError(&client.RefusedError{Text: "no", Policy: true}), 3},
		{"an order that makes no sense", releaseError(&client.RefusedError{Text: "no"}), 2},
		{"an object that is not there", &kube.Error{Kind: kube.NotFound}, 4},
		{"no such service", &session.UnknownServiceError{}, 4},
		{"a server that is away", &kube.Error{Kind: kube.Unreachable}, 1},
		{"time", fmt.Errorf("wait: %w", context.DeadlineExceeded), 5},
		{"usage", usageError("wrong"), 2},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := exitCode(t.Context(), test.err); got != test.want {
				t.Errorf("exit code %d, want %d", got, test.want)
			}
		})
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if got := exitCode(ended, context.Canceled); got != exitInterrupted {
		t.Errorf("interrupted: exit code %d, want %d", got, exitInterrupted)
	}
}

func TestReport(t *testing.T) {
	crash := &deploy.RolloutError{Failures: []*deploy.Failure{{Service: "cart"}, {Service: "cart"}, {Service: "web"}}}
	tests := []struct {
		name string
		err  error
		code int
		want string
	}{
		{"nothing", nil, 0, ""},
		{"lines", errors.New("one\ntwo"), 1, "error: one\n  two\n"},
		{"escape sequences", errors.New("a\x1b[31mb\xff"), 1, "error: a\uFFFD[31mb\uFFFD\n"},
		{"told already", codedError{code: 1, err: errors.New("x"), silent: true}, 1, ""},
		{"failures that were shown", errors.Join(crash), 1,
			"error: cart, web cannot become ready, for the reason above; what is deployed stays as it is until bight up or bight down runs again\n"},
		{"failures and more", errors.Join(crash, errors.New("push: refused")), 1,
			"error: cart, web cannot become ready, for the reason above; what is deployed stays as it is until bight up or bight down runs again\n  push: refused\n"},
		{"interrupted", context.Canceled, exitInterrupted, "interrupted\n"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var b bytes.Buffer
			p := &Program{Stderr: &b}
			p.report(test.err, test.code, false)
			if got := b.String(); got != test.want {
				t.Errorf("got  %q\nwant %q", got, test.want)
			}
			b.Reset()
			p.report(test.err, test.code, true)
			if test.want == "" {
				if b.Len() > 0 {
					t.Errorf("as JSON it is %s", &b)
				}
				return
			}
			var o struct {
				Type, Error string
				ExitCode    int
			}
			if err := json.Unmarshal(b.Bytes(), &o); err != nil || o.Type != "error" || o.Error == "" || o.ExitCode != test.code {
				t.Errorf("as JSON it is %s, %v", &b, err)
			}
		})
	}
}

func TestWantsJSON(t *testing.T) {
	tests := []struct {
		args []string
		want bool
	}{
		{[]string{"plan"}, false},
		{[]string{"plan", "-o", "json"}, true},
		{[]string{"plan", "-ojson"}, true},
		{[]string{"plan", "--output=json", "x"}, true},
		{[]string{"plan", "--output", "json"}, true},
		{[]string{"plan", "-o"}, false},
		{[]string{"plan", "-o", "yaml"}, false},
		{[]string{"logs", "--", "-o", "json"}, false},
	}
	for _, test := range tests {
		if got := wantsJSON(test.args); got != test.want {
			t.Errorf("wantsJSON(%q) = %v, want %v", test.args, got, test.want)
		}
	}
}

package kube

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strings"
	"syscall"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Kind is what an [Error] is about.
type Kind string

// Kinds of [Error].
const (
	Unreachable Kind = "unreachable" // nothing answers at the server's address
	Unavailable Kind = "unavailable" // the API server answers that it can't serve now
	Certificate Kind = "certificate" // the server's certificate is not to be trusted
	Credentials Kind = "credentials" // the server doesn't know who we are
	Forbidden   Kind = "forbidden"   // a right is missing
	Policy      Kind = "policy"      // admission refuses it: Pod Security, a policy, a limit range
	Quota       Kind = "quota"       // the namespace's quota is used up
	NotFound    Kind = "not found"
	Conflict    Kind = "conflict" // somebody else's change or object is in the way
)

// Error is a failed request, explained. Its text says what happened and what to
// do next; Unwrap gives the original.
type Error struct {
	Kind    Kind
	Server  string
	Missing []Access // the rights that are missing, with Forbidden
	Text    string
	Err     error
}

func (e *Error) Error() string { return e.Text }

func (e *Error) Unwrap() error { return e.Err }

// Explain turns err into an [*Error] where it knows the cause. Others, and the
// end of a context, are returned as they are: only the caller knows what took
// too long.
func (c *Cluster) Explain(err error) error {
	if err == nil {
		return nil
	}
	var known *Error
	if errors.As(err, &known) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	e := classify(err, subject{
		context: c.Context, server: c.Server, namespace: c.Namespace,
		certificate: c.config.CertData, certificateFile: c.config.CertFile, now: time.Now(),
	})
	if e == nil {
		return err
	}
	e.Server, e.Err = c.Server, err
	return e
}

// KindOf returns the kind of an explained error, "" of any other.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return ""
}

// subject is what classify has to know of the cluster.
type subject struct {
	context, server, namespace string
	certificate                []byte // our own, PEM
	certificateFile            string
	now                        time.Time
}

// classify finds out what err means; nil when it can't tell.
func classify(err error, s subject) *Error {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return classifyStatus(status.Status(), s)
	}
	if e := classifyCredentials(err, s); e != nil {
		return e
	}
	if e := classifyCertificate(err, s); e != nil {
		return e
	}
	return classifyNetwork(err, s)
}

func (s subject) where() string {
	return fmt.Sprintf("cluster of context %q (%s)", s.context, s.server)
}

// start says how to get an embedded cluster going, where it is one.
func (s subject) start() string {
	if s.context == "bight" {
		return "start it with `bight cluster start`"
	}
	if name, ok := strings.CutPrefix(s.context, "bight-"); ok {
		return "start it with `bight cluster start --name " + name + "`"
	}
	return "see that it runs and that this machine is on its network (VPN?), or choose another with --context"
}

func classifyNetwork(err error, s subject) *Error {
	var why string
	var dns *net.DNSError
	var op *net.OpError
	var timeout net.Error
	switch {
	case errors.As(err, &dns):
		why = "no such host as " + dns.Name
	case errors.Is(err, syscall.ECONNREFUSED):
		why = "connection refused"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		why = "no route to it"
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, os.ErrDeadlineExceeded):
		why = "no answer in time"
	case errors.As(err, &op) && op.Op == "dial":
		why = op.Err.Error()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		why = "the connection was cut"
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		why = "what answers there does not speak HTTPS"
	default:
		return nil
	}
	return &Error{Kind: Unreachable, Text: fmt.Sprintf("%s is not reachable: %s; %s", s.where(), why, s.start())}
}

func classifyCertificate(err error, s subject) *Error {
	var verify *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	var why string
	switch {
	case errors.As(err, &unknown):
		why = "it is signed by an authority that the kubeconfig does not name; was the cluster made anew? Fetch its kubeconfig again"
	case errors.As(err, &host):
		why = host.Error() + "; use one of its names in the kubeconfig, or set tls-server-name there"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		why = invalid.Error() + "; if this machine's clock is right, the cluster's certificates have to be renewed"
	case errors.As(err, &invalid):
		why = invalid.Error()
	case errors.As(err, &verify):
		why = verify.Err.Error()
	default:
		return nil
	}
	return &Error{Kind: Certificate, Text: fmt.Sprintf("the certificate of the %s is not to be trusted: %s", s.where(), why)}
}

// classifyCredentials knows a failing credential plugin and a server that hangs
// up on our certificate.
func classifyCredentials(err error, s subject) *Error {
	if _, plugin, ok := strings.Cut(err.Error(), "getting credentials: "); ok {
		return &Error{Kind: Credentials, Text: fmt.Sprintf(
			"the credential plugin for the %s failed: %s; run it by hand, or log in again with your provider's command", s.where(), plugin)}
	}
	var alert tls.AlertError
	if errors.As(err, &alert) {
		return &Error{Kind: Credentials, Text: credentialsText(s, alert.Error())}
	}
	return nil
}

// credentialsText says that the server refuses who we are, and why if our own
// certificate tells.
func credentialsText(s subject, said string) string {
	if end, ok := certificateEnd(s); ok && s.now.After(end) {
		return fmt.Sprintf("the client certificate for the %s expired on %s: fetch the cluster's kubeconfig again",
			s.where(), end.Format("2006-01-02 15:04"))
	}
	return fmt.Sprintf("the %s does not accept the credentials of the kubeconfig (%s): they are wrong or have expired; log in again or fetch its kubeconfig again",
		s.where(), said)
}

func certificateEnd(s subject) (time.Time, bool) {
	data := s.certificate
	if len(data) == 0 && s.certificateFile != "" {
		data, _ = os.ReadFile(s.certificateFile) // without it we say less
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return time.Time{}, false
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return time.Time{}, false
	}
	return cert.NotAfter, true
}

func classifyStatus(st metav1.Status, s subject) *Error {
	switch st.Reason {
	case metav1.StatusReasonUnauthorized:
		return &Error{Kind: Credentials, Text: credentialsText(s, st.Message)}
	case metav1.StatusReasonForbidden:
		return classifyForbidden(st, s)
	case metav1.StatusReasonNotFound:
		return classifyNotFound(st, s)
	case metav1.StatusReasonConflict:
		return &Error{Kind: Conflict, Text: conflictText(st)}
	case metav1.StatusReasonAlreadyExists:
		return &Error{Kind: Conflict, Text: st.Message + ": choose another name or delete it"}
	case metav1.StatusReasonServiceUnavailable, metav1.StatusReasonTooManyRequests,
		metav1.StatusReasonServerTimeout, metav1.StatusReasonTimeout:
		return &Error{Kind: Unavailable, Text: fmt.Sprintf("the %s can't serve now: %s; try again in a moment", s.where(), st.Message)}
	}
	switch st.Code {
	case 401:
		return &Error{Kind: Credentials, Text: credentialsText(s, st.Message)}
	case 403:
		return classifyForbidden(st, s)
	case 404:
		return classifyNotFound(st, s)
	case 502, 503, 504:
		return &Error{Kind: Unavailable, Text: fmt.Sprintf("the %s can't serve now: %s; try again in a moment", s.where(), st.Message)}
	}
	return nil
}

func classifyNotFound(st metav1.Status, s subject) *Error {
	text := st.Message
	if d := st.Details; d != nil && d.Name != "" {
		text = fmt.Sprintf("%s %q does not exist in the %s", d.Kind, d.Name, s.where())
	}
	return &Error{Kind: NotFound, Text: text}
}

func conflictText(st metav1.Status) string {
	if st.Details != nil && len(st.Details.Causes) > 0 && st.Details.Causes[0].Type == metav1.CauseTypeFieldManagerConflict {
		return fmt.Sprintf("%s %q: fields belong to somebody else: %s", st.Details.Kind, st.Details.Name, causes(st))
	}
	return st.Message
}

func causes(st metav1.Status) string {
	var all []string
	for _, c := range st.Details.Causes {
		all = append(all, strings.TrimSpace(c.Field+" "+c.Message))
	}
	return strings.Join(all, "; ")
}

// What the API server's authorizer, quota and namespace lifecycle say. Their
// words are not an API, but nothing else tells which right it is.
var (
	noRight = regexp.MustCompile(`User "(.*?)" cannot (\S+) (?:resource "([^"]*)" in API group "([^"]*)"|path "([^"]*)")(?: in the namespace "([^"]*)")?`)
	noQuota = regexp.MustCompile(`exceeded quota: ([^,]+), (requested: .*)`)
)

func classifyForbidden(st metav1.Status, s subject) *Error {
	message := st.Message
	if m := noQuota.FindStringSubmatch(message); m != nil {
		return &Error{Kind: Quota, Text: fmt.Sprintf(
			"quota %q is used up (%s): run less, delete what is not needed, or ask for more", m[1], m[2])}
	}
	if strings.Contains(message, "is being terminated") {
		return &Error{Kind: Conflict, Text: message + ": wait until it is gone, or choose another namespace with -n"}
	}
	m := noRight.FindStringSubmatch(message)
	if m == nil {
		return &Error{Kind: Policy, Text: "refused by a policy of the cluster: " + message}
	}
	a := Access{Verb: m[2], Group: m[4], Namespace: m[6]}
	if a.Resource, a.Subresource, _ = strings.Cut(m[3], "/"); m[5] != "" {
		a.Resource = m[5]
	}
	e := missingError(s, []Access{a}, m[1])
	return e
}

// missingError names rights that are missing, all at once.
func missingError(s subject, missing []Access, user string) *Error {
	var all []string
	for _, a := range missing {
		all = append(all, a.String())
	}
	who := "you have"
	if user != "" {
		who = fmt.Sprintf("user %q has", user)
	}
	what := "the right to "
	if len(all) > 1 {
		what = "these rights: "
	}
	return &Error{
		Kind: Forbidden, Server: s.server, Missing: missing,
		Text: fmt.Sprintf("%s not %s%s in the %s; ask whoever runs it for %s, or choose another namespace with -n",
			who, what, strings.Join(all, ", "), s.where(), granting(missing)),
	}
}

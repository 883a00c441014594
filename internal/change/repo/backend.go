package repo

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// receiving is one request under way; for a push, hooks ask about it.
type receiving struct {
	target
	repository *Repository
	user       User
	moved      bool // some ref was pushed
}

const (
	maxCommands   = 1 << 20  // bytes of the list of refs that a push begins with: 6,000 refs
	maxQuestions  = 10 << 20 // bytes of what a fetch asks
	maxDiscarded  = 64 << 20 // bytes that a refused push may go on to send before it is cut off
	copyingBuffer = 64 << 10
)

// protocolVersion is what a client may ask for, of at most maxVersion bytes: a bound in
// the expression would take a millisecond of every command's start.
var protocolVersion = regexp.MustCompile(`^[A-Za-z0-9=:._-]+$`)

const maxVersion = 200

// serve lets git's http-backend answer the request.
func (s *Server) serve(ctx context.Context, cancel context.CancelCauseFunc, w http.ResponseWriter, r *http.Request, now *receiving) {
	flow := &flow{ctx: ctx, control: http.NewResponseController(w), stall: s.Stall, w: w, body: r.Body}
	defer flow.clear()
	defer context.AfterFunc(ctx, func() { flow.control.SetReadDeadline(time.Now()) })()
	var body io.Reader
	if !now.advertise {
		var err error
		if body, err = requestBody(r, flow, now.service); err != nil {
			status := http.StatusBadRequest
			if _, large := errors.AsType[*TooLargeError](err); large {
				status = http.StatusRequestEntityTooLarge
			}
			refuse(w, status, err.Error())
			return
		}
	}
	// Git reports progress while it still receives. From here on the body must be read to its end, or the
	// connection be given up: net/http can't do that by itself in this mode.
	if err := flow.control.EnableFullDuplex(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		s.Log.Debug("full duplex is not to be had", "error", err)
	}
	token := rand.Text()
	if now.service == pushing && !now.advertise {
		s.mu.Lock()
		s.receiving[token] = now
		s.mu.Unlock()
		defer func() {
			s.mu.Lock()
			delete(s.receiving, token)
			s.mu.Unlock()
		}()
	}
	err := s.runBackend(ctx, cancel, r, flow, body, now, token)
	if err != nil {
		s.Log.Info("git request ended early", "namespace", now.namespace, "app", now.app, "service", now.name, "user", now.user.Name, "error", err)
		if !flow.answered {
			w.Header().Set("Connection", "close") // the body may not have been read to its end
			refuse(w, http.StatusInternalServerError, "git could not answer: the controller's log says why")
		} else {
			panic(http.ErrAbortHandler) // what was sent is not the whole; the connection must not look well ended
		}
	}
	s.afterPush(now)
}

// requestBody returns what the client sends, unpacked. A push's list of refs is read at once: git keeps it in
// memory whole, so it has a limit.
func requestBody(r *http.Request, flow *flow, what service) (io.Reader, error) {
	var body io.Reader = flow
	switch encoding := r.Header.Get("Content-Encoding"); encoding {
	case "":
	case "gzip", "x-gzip":
		unpacked, err := gzip.NewReader(flow)
		if err != nil {
			return nil, fmt.Errorf("the request's gzip encoding is broken: %w", err)
		}
		body = unpacked
	default:
		return nil, fmt.Errorf("the request's encoding %q is not known: gzip is", encoding)
	}
	if what == fetching {
		return &limited{r: body, left: maxQuestions}, nil
	}
	begin := &bytes.Buffer{}
	buffered := bufio.NewReaderSize(body, copyingBuffer)
	tee := io.TeeReader(buffered, begin)
	commands, err := readList(tee, maxCommands)
	if err != nil {
		return nil, fmt.Errorf("read the push: %w", err)
	}
	if len(commands) > 0 && hasCapability(commands[0], "push-options") {
		if _, err := readList(tee, maxCommands); err != nil {
			return nil, fmt.Errorf("read the push: %w", err)
		}
	}
	return io.MultiReader(begin, buffered), nil
}

// limited ends with an error, not with io.EOF, when there is more than allowed.
type limited struct {
	r    io.Reader
	left int64
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, &TooLargeError{What: "what the fetch asks", Size: -1, Limit: maxQuestions}
	}
	return n, err
}

// hasCapability looks behind the NUL of a push's first command.
func hasCapability(command, name string) bool {
	_, list, _ := strings.Cut(command, "\x00")
	for word := range strings.FieldsSeq(list) {
		if word == name {
			return true
		}
	}
	return false
}

// policy is what holds for a request beside the common settings.
func (s *Server) policy(r *http.Request) [][2]string {
	unpack := "100" // objects and more stay in the file that they come in; this is git's own limit
	if r.ContentLength < 0 {
		// Git says how long a push is up to http.postBuffer, 1 MiB. To unpack a larger one would compress it once
		// more here, and again whenever it is fetched, which costs more than all else that is done with it.
		unpack = "1"
	}
	return [][2]string{
		{"receive.unpackLimit", unpack},
		{"core.hooksPath", s.runDir},
		{"http.receivepack", "true"},
		{"http.uploadpack", "true"},
		{"http.getanyfile", "false"},
		{"receive.procReceiveRefs", "refs"},
		{"receive.advertisePushOptions", "true"},
		{"receive.advertiseAtomic", "false"},
		{"receive.autogc", "false"},
		{"receive.maxInputSize", strconv.FormatInt(s.MaxPush, 10)},
		{"transfer.hideRefs", strings.TrimSuffix(ownRefs, "/")},
		{"uploadpack.allowFilter", "true"},
		{"uploadpack.allowAnySHA1InWant", "true"},
	}
}

// runBackend runs git's http-backend, a CGI program, with the request's body as its input.
func (s *Server) runBackend(ctx context.Context, cancel context.CancelCauseFunc, r *http.Request, flow *flow, body io.Reader, now *receiving, token string) error {
	path := "/" + now.app + ".git/" + now.name
	query := ""
	if now.advertise {
		path, query = "/"+now.app+".git/info/refs", "service="+now.name
	}
	env := []string{
		"GIT_PROJECT_ROOT=" + strings.TrimSuffix(now.repository.Dir, "/"+now.app+".git"),
		"GIT_HTTP_EXPORT_ALL=1",
		"GATEWAY_INTERFACE=CGI/1.1",
		"PATH_INFO=" + path,
		"QUERY_STRING=" + query,
		"REQUEST_METHOD=" + r.Method,
		"CONTENT_TYPE=" + r.Header.Get("Content-Type"),
		envSocket + "=" + s.socket(),
		envToken + "=" + token,
		envMaxFile + "=" + strconv.FormatInt(s.MaxFile, 10),
	}
	if version := r.Header.Get("Git-Protocol"); len(version) <= maxVersion && protocolVersion.MatchString(version) {
		env = append(env, "GIT_PROTOCOL="+version)
	}
	cmd := exec.CommandContext(ctx, s.backend)
	cmd.Env = environment(s.policy(r), env...)
	cmd.Dir = s.runDir
	words := &tail{limit: limitWords}
	cmd.Stderr = words
	ownGroup(cmd)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start git http-backend: %w", err)
	}
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		if err := feed(stdin, body); err != nil {
			cancel(fmt.Errorf("read the request: %w", err))
		}
	}()
	answerErr := flow.answer(bufio.NewReaderSize(stdout, copyingBuffer))
	if answerErr != nil {
		cancel(fmt.Errorf("write the response: %w", answerErr))
	}
	waitErr := cmd.Wait()
	<-fed
	switch {
	case answerErr == nil && waitErr == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return fmt.Errorf("%w: %s", errors.Join(answerErr, waitErr), lastLines(words.kept))
}

// feed passes the body to git. If git has heard enough, the rest is read and dropped, so that the client
// gets to read why.
func feed(stdin io.WriteCloser, body io.Reader) error {
	defer stdin.Close()
	if body == nil {
		return nil
	}
	watched := &readErrors{r: body}
	_, err := io.Copy(stdin, watched)
	if watched.err != nil {
		return watched.err
	}
	if err != nil {
		stdin.Close()
		_, err := io.CopyN(io.Discard, watched, maxDiscarded)
		switch {
		case err == nil:
			return errors.New("git refused the push, and the client goes on sending")
		case !errors.Is(err, io.EOF):
			return err
		}
	}
	return nil
}

// readErrors keeps apart what goes wrong in reading from what goes wrong in writing.
type readErrors struct {
	r   io.Reader
	err error
}

func (e *readErrors) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		e.err = err
	}
	return n, err
}

// flow is a request's body and its response, with a deadline on each single read and write: a slow client is
// served for as long as it takes, one that stalls is not.
type flow struct {
	ctx      context.Context
	control  *http.ResponseController
	stall    time.Duration
	w        http.ResponseWriter
	body     io.Reader
	answered bool
}

func (f *flow) Read(p []byte) (int, error) {
	f.control.SetReadDeadline(time.Now().Add(f.stall))
	if f.ctx.Err() != nil { // looked at after the deadline is set: whoever ends ctx sets it anew
		return 0, context.Cause(f.ctx)
	}
	n, err := f.body.Read(p)
	if err != nil {
		f.control.SetReadDeadline(time.Time{}) // from here on the server reads only to see whether the client is there
	}
	return n, err
}

// clear takes the deadlines away, which would else hold for the connection's next request.
func (f *flow) clear() {
	f.control.SetReadDeadline(time.Time{})
	f.control.SetWriteDeadline(time.Time{})
}

// answer passes on what a CGI program writes: headers, an empty line, the body.
func (f *flow) answer(from *bufio.Reader) error {
	header, err := textproto.NewReader(from).ReadMIMEHeader()
	if err != nil {
		return fmt.Errorf("git http-backend gave no headers: %w", err)
	}
	status := http.StatusOK
	if text := header.Get("Status"); text != "" {
		code, _, _ := strings.Cut(text, " ")
		if status, err = strconv.Atoi(code); err != nil || status < 200 || status > 599 {
			return fmt.Errorf("git http-backend gave status %q", text)
		}
		header.Del("Status")
	}
	for key, values := range header {
		f.w.Header()[key] = values
	}
	f.answered = true
	f.w.WriteHeader(status)
	buffer := make([]byte, copyingBuffer)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			f.control.SetWriteDeadline(time.Now().Add(f.stall))
			if _, err := f.w.Write(buffer[:n]); err != nil {
				return err
			}
			if err := f.control.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

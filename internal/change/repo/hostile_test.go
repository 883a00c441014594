//go:build unix

package repo

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-ctx.Done():
			t.Fatalf("%s did not come to pass", what)
		case <-tick.C:
		}
	}
}

// whole fails unless the repository has all that its refs need.
func whole(t *testing.T, r *Repository) {
	t.Helper()
	if out, err := r.git(t.Context(), "fsck", "--full", "--strict"); err != nil {
		t.Errorf("fsck: %v\n%s", err, out)
	}
}

// noise is text that does not compress.
func noise(n int) string {
	raw := make([]byte, n/2)
	rand.Read(raw)
	return hex.EncodeToString(raw)
}

func TestAPushOverTheLimitIsRefusedAndLeavesNothing(t *testing.T) {
	f := newForge(t, func(s *Server) { s.MaxPush = 1 << 20 })
	u := newUser(t)
	u.commit("large", "a", noise(8<<20)) // larger than git's postBuffer, so it comes in chunks
	out, err := u.try("push", f.web("ann"), "main")
	if err == nil {
		t.Error("it was taken")
	}
	has(t, out, "exceeds maximum allowed size")
	if got := f.seen(); len(got) > 0 {
		t.Errorf("pushes were told: %+v", got)
	}
	u.git("reset", "--hard", "--quiet")
	small := newUser(t)
	small.commit("small", "a", "1")
	small.git("push", f.web("ann"), "main") // the next one is not affected
	eventually(t, "removal of what was received", func() bool {
		left, err := filepath.Glob(filepath.Join(f.Dir, "objects", "tmp_*"))
		more, err2 := filepath.Glob(filepath.Join(f.Dir, "objects", "incoming-*"))
		return errors.Join(err, err2) == nil && len(left)+len(more) == 0
	})
	whole(t, f.Repository)
}

func TestAFileOverTheLimitIsNamed(t *testing.T) {
	f := newForge(t, func(s *Server) { s.MaxFile = 1 << 20 })
	u := newUser(t)
	commit := u.commit("zeros", "data/zeros.bin", strings.Repeat("\x00", 4<<20), "b", "1")
	out, err := u.try("push", f.web("ann"), "main:refs/heads/topic")
	if err == nil {
		t.Error("it was taken")
	}
	has(t, out, "remote: file data/zeros.bin has 4.0 MiB, the limit is 1.0 MiB")
	if _, err := f.Resolve(t.Context(), commit); err == nil {
		t.Error("the refused commit is in the repository")
	}
}

func TestALargePushInChunksIsTaken(t *testing.T) {
	f := newForge(t, nil)
	u := newUser(t)
	commit := u.commit("large", "a", noise(8<<20))
	u.git("push", f.web("ann"), "main")
	if got := f.seen(); len(got) != 1 || got[0].New != commit {
		t.Errorf("pushes: %+v", got)
	}
	whole(t, f.Repository)
}

func TestObjectsThatGitWouldNotMakeAreRefused(t *testing.T) {
	for _, name := range []string{".git", ".GIT", "..", ".", "git~1", ".g\u200cit", ".git ", ""} {
		t.Run(name, func(t *testing.T) {
			f := newForge(t, nil)
			u := newUser(t)
			blob := u.git("hash-object", "-w", "--literally", "-t", "blob", os.DevNull)
			raw, err := hex.DecodeString(blob)
			if err != nil {
				t.Fatal(err)
			}
			u.write("tree", "100644 "+name+"\x00"+string(raw))
			tree := u.git("hash-object", "-w", "-t", "tree", "--literally", "tree")
			commit := u.git("commit-tree", "-m", "hostile", tree)
			out, err := u.try("push", f.web("ann"), commit+":refs/heads/main")
			if err == nil {
				t.Errorf("it was taken:\n%s", out)
			}
			if got := f.seen(); len(got) > 0 {
				t.Errorf("pushes were told: %+v", got)
			}
		})
	}
}

func TestShallowPartialAndOldClients(t *testing.T) {
	f := newForge(t, nil)
	u := newUser(t)
	u.commit("one", "a", "1", "b", "1")
	last := u.commit("two", "a", "2")
	u.git("push", f.web("ann"), "main:refs/heads/topic")
	for _, args := range [][]string{
		{"clone", "--quiet", "--depth=1", "--branch=topic"},
		{"clone", "--quiet", "--filter=blob:none", "--branch=topic"},
		{"-c", "protocol.version=0", "clone", "--quiet", "--branch=topic"},
		{"-c", "protocol.version=1", "clone", "--quiet", "--branch=topic"},
		{"-c", "protocol.version=2", "clone", "--quiet", "--branch=topic"},
	} {
		copied := newUser(t)
		copied.git(append(args, f.web("bob"), "copy")...)
		if got := copied.git("-C", "copy", "rev-parse", "HEAD"); got != last {
			t.Errorf("%v: clone is at %s", args, got)
		}
	}
	old := newUser(t)
	old.commit("other", "c", "1")
	old.git("-c", "protocol.version=0", "push", f.web("ann"), "main:refs/heads/old")
	depth := newUser(t)
	depth.git("clone", "--quiet", "--depth=1", "--branch=topic", f.web("ann"), "copy")
	depth.dir = filepath.Join(depth.dir, "copy")
	depth.commit("three", "a", "3")
	depth.git("push", f.web("ann"), "HEAD:refs/heads/topic")
	whole(t, f.Repository)
}

func TestAnswersKnowTheSecondVersionOfTheProtocol(t *testing.T) {
	f := newForge(t, nil)
	r, err := http.NewRequestWithContext(t.Context(), "GET", f.web("bob")+"/info/refs?service=git-upload-pack", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Git-Protocol", "version=2")
	response, err := f.http.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	has(t, string(body), "version 2", "filter")
}

// post sends a request as a client that is not git.
func (f *forge) post(t *testing.T, service, encoding string, body io.Reader) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "POST", f.web("ann")+"/"+service, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-"+service+"-request")
	if encoding != "" {
		r.Header.Set("Content-Encoding", encoding)
	}
	r.Header.Set("Git-Protocol", "version=2")
	response, err := f.http.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

func TestRequestBodies(t *testing.T) {
	f := newForge(t, nil)
	u := newUser(t)
	commit := u.commit("one", "a", "1")
	u.git("push", f.web("ann"), "main:refs/heads/topic")

	var question bytes.Buffer
	for _, line := range []string{"command=ls-refs\n", "agent=test\n"} {
		if err := writePacket(&question, line); err != nil {
			t.Fatal(err)
		}
	}
	question.WriteString("0001" + "0000")
	var packed bytes.Buffer
	zip := gzip.NewWriter(&packed)
	zip.Write(question.Bytes())
	zip.Close()
	status, text := f.post(t, "git-upload-pack", "gzip", &packed)
	if status != http.StatusOK {
		t.Errorf("gzip: status %d", status)
	}
	has(t, text, commit+" refs/heads/topic")

	endless := strings.Repeat("00681234567890123456789012345678901234567890 1234567890123456789012345678901234567890 refs/heads/abcdefg", 20_000)
	var bomb bytes.Buffer
	zip = gzip.NewWriter(&bomb)
	zip.Write([]byte(endless))
	zip.Close()
	for _, test := range []struct {
		name, service, encoding, body string
		status                        int
		words                         string
	}{
		{"not gzip", "git-upload-pack", "gzip", "plain", 400, "gzip encoding is broken"},
		{"unknown encoding", "git-upload-pack", "br", "x", 400, "is not known"},
		{"no packets", "git-receive-pack", "", "hello, world", 400, "no length of a packet"},
		{"cut off", "git-receive-pack", "", "00a0short", 400, "unexpected EOF"},
		{"endless list", "git-receive-pack", "", endless, 413, "larger than the limit"},
		{"endless list, packed", "git-receive-pack", "gzip", bomb.String(), 413, "larger than the limit"},
	} {
		t.Run(test.name, func(t *testing.T) {
			status, text := f.post(t, test.service, test.encoding, strings.NewReader(test.body))
			if status != test.status {
				t.Errorf("status %d, want %d", status, test.status)
			}
			has(t, text, test.words)
		})
	}
}

func TestPushesAtTheSameTime(t *testing.T) {
	f := newForge(t, nil)
	const many = 6
	users := make([]user, many)
	commits := make([]string, many)
	for i := range users {
		users[i] = newUser(t)
		commits[i] = users[i].commit("mine", "a", fmt.Sprint(i))
	}
	var running sync.WaitGroup
	took := make([]bool, many)
	for i := range users {
		running.Go(func() {
			if out, err := users[i].try("push", f.web("ann"), "main"); err != nil {
				t.Errorf("push to main: %v\n%s", err, out)
			}
			out, err := users[i].try("push", f.web("ann"), "main:refs/heads/shared")
			took[i] = err == nil
			if err != nil && !strings.Contains(out, "moved") && !strings.Contains(out, "fetch first") {
				t.Errorf("push to shared: %v\n%s", err, out)
			}
		})
	}
	running.Wait()
	winners := 0
	for i := range took {
		mustRef(t, f.Repository, ChangeRef(commits[i]), commits[i])
		if took[i] {
			winners++
			mustRef(t, f.Repository, "refs/heads/shared", commits[i])
		}
	}
	if winners != 1 {
		t.Errorf("%d pushes of unrelated histories moved the same branch", winners)
	}
	changes, moves := 0, 0
	for _, p := range f.seen() {
		if p.Change {
			changes++
		} else {
			moves++
		}
	}
	if changes != many || moves != 1 {
		t.Errorf("%d changes and %d moves were told, want %d and 1", changes, moves, many)
	}
	whole(t, f.Repository)
}

// slowPush begins a push by hand and returns after half of the pack has been sent.
func slowPush(t *testing.T, f *forge) net.Conn {
	t.Helper()
	return slowPushTo(t, f.Dir, f.http.Listener.Addr().String())
}

func slowPushTo(t *testing.T, dir, address string) net.Conn {
	t.Helper()
	u := newUser(t)
	commit := u.commit("one", "a", noise(1<<20))
	cmd := exec.CommandContext(t.Context(), "git", "pack-objects", "--stdout", "--revs", "--quiet")
	cmd.Dir = u.dir
	cmd.Stdin = strings.NewReader(commit + "\n")
	pack, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var body bytes.Buffer
	line := strings.Repeat("0", 40) + " " + commit + " refs/heads/main\x00 report-status side-band-64k"
	if err := errors.Join(writePacket(&body, line), writeFlush(&body)); err != nil {
		t.Fatal(err)
	}
	length := body.Len() + len(pack)
	body.Write(pack[:len(pack)/2])
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	r := httptest.NewRequest("POST", "/", nil)
	r.SetBasicAuth("any", "ann")
	_, err = fmt.Fprintf(conn, "POST /git/shop/web.git/git-receive-pack HTTP/1.1\r\nHost: test\r\nAuthorization: %s\r\nContent-Type: application/x-git-receive-pack-request\r\nContent-Length: %d\r\n\r\n%s",
		r.Header.Get("Authorization"), length, body.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "receiving", func() bool {
		found, err := filepath.Glob(filepath.Join(dir, "objects", "tmp_objdir-incoming-*"))
		return err == nil && len(found) > 0
	})
	return conn
}

// gitProcesses counts running processes of git that are at work on the repository.
func gitProcesses(t *testing.T, dir string) int {
	t.Helper()
	entries, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, name := range entries {
		if environ, err := os.ReadFile(name); err == nil && strings.Contains(string(environ), "GIT_PROJECT_ROOT="+filepath.Dir(dir)) {
			count++
		}
	}
	return count
}

func TestAClientThatStallsOrGoesTakesItsProcessesAlong(t *testing.T) {
	for _, test := range []struct {
		name  string
		stall time.Duration
		leave func(net.Conn)
	}{
		{"stalls", 300 * time.Millisecond, func(net.Conn) {}},
		{"goes", time.Hour, func(c net.Conn) { c.Close() }},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newForge(t, func(s *Server) { s.Stall = test.stall })
			conn := slowPush(t, f)
			test.leave(conn)
			eventually(t, "the end of git's processes", func() bool { return gitProcesses(t, f.Dir) == 0 })
			if got := f.seen(); len(got) > 0 {
				t.Errorf("pushes were told: %+v", got)
			}
			u := newUser(t)
			u.commit("next", "a", "1")
			u.git("push", f.web("ann"), "main")
			whole(t, f.Repository)
		})
	}
}

func TestAClientThatDoesNotTakeWhatItAskedForIsLetGo(t *testing.T) {
	f := newForge(t, func(s *Server) { s.Stall = 500 * time.Millisecond })
	u := newUser(t)
	commit := u.commit("large", "a", noise(24<<20)) // more than the buffers of a connection
	u.git("push", f.web("ann"), "main")
	var question bytes.Buffer
	err := errors.Join(writePacket(&question, "command=fetch\n"), writePacket(&question, "agent=test\n"))
	question.WriteString("0001")
	err = errors.Join(err, writePacket(&question, "no-progress\n"), writePacket(&question, "want "+commit+"\n"), writePacket(&question, "done\n"), writeFlush(&question))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", f.http.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r := httptest.NewRequest("POST", "/", nil)
	r.SetBasicAuth("any", "bob")
	_, err = fmt.Fprintf(conn, "POST /git/shop/web.git/git-upload-pack HTTP/1.1\r\nHost: test\r\nAuthorization: %s\r\nGit-Protocol: version=2\r\nContent-Type: application/x-git-upload-pack-request\r\nContent-Length: %d\r\n\r\n%s",
		r.Header.Get("Authorization"), question.Len(), question.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	begin := make([]byte, 12)
	if _, err := io.ReadFull(conn, begin); err != nil || string(begin) != "HTTP/1.1 200" {
		t.Fatalf("%q, %v", begin, err)
	}
	eventually(t, "the end of git's processes", func() bool { return gitProcesses(t, f.Dir) == 0 })
	if n, err := io.Copy(io.Discard, conn); err == nil && n > 20<<20 {
		t.Errorf("%d bytes were sent to a client that took none", n)
	}
}

func TestAServerThatEndsInTheMiddleOfAPushLeavesTheRepositoryWhole(t *testing.T) {
	f := newForge(t, func(s *Server) { s.Stall = time.Hour })
	slowPush(t, f)
	if err := f.Server.Close(); err != nil {
		t.Fatal(err)
	}
	if n := gitProcesses(t, f.Dir); n > 0 {
		t.Errorf("%d processes are left", n)
	}
	whole(t, f.Repository)
	refs, err := f.Refs(t.Context(), "refs/")
	if err != nil || len(refs) > 0 {
		t.Errorf("refs: %v, %v", refs, err)
	}
	u := newUser(t)
	out, err := u.try("ls-remote", f.web("ann"))
	if err == nil {
		t.Error("a closed server answers")
	}
	has(t, out, "shutting down")
}

func TestAServerThatIsKilledInTheMiddleOfAPushLeavesTheRepositoryWhole(t *testing.T) {
	root := t.TempDir()
	r, err := Store{Root: root}.Create(t.Context(), "shop", "web", "main")
	if err != nil {
		t.Fatal(err)
	}
	serve := func() (*exec.Cmd, string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), os.Args[0], "git-serve", root)
		short, err := os.MkdirTemp("", "b")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(short) }) // the killed server can't
		cmd.Env = append(os.Environ(), "TMPDIR="+short)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return cmd, strings.TrimPrefix(strings.TrimSpace(line), "http://")
	}
	first, address := serve()
	slowPushTo(t, r.Dir, address)
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait() // it says that it was killed
	eventually(t, "the end of git's processes", func() bool { return gitProcesses(t, r.Dir) == 0 })
	whole(t, r)
	if refs, err := r.Refs(t.Context(), "refs/"); err != nil || len(refs) > 0 {
		t.Errorf("refs: %v, %v", refs, err)
	}
	second, address := serve()
	u := newUser(t)
	commit := u.commit("next", "a", "1")
	u.git("push", "http://any:ann@"+address+"/git/shop/web.git", "main")
	mustRef(t, r, ChangeRef(commit), commit)
	if err := second.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = second.Wait()
}

func TestAHookOutsideOfTheServerIsRefused(t *testing.T) {
	var out bytes.Buffer
	if err := Hook(t.Context(), preReceive, strings.NewReader(""), &out, &out, nil); err == nil {
		t.Error("it ran without a server")
	}
	f := newForge(t, nil)
	for _, name := range []string{preReceive, "post-update"} {
		env := []string{envSocket + "=" + f.socket(), envToken + "=guessed"}
		if err := Hook(t.Context(), name, strings.NewReader(""), &out, &out, env); err == nil {
			t.Errorf("%s ran for a push that is not under way", name)
		}
	}
	has(t, out.String(), "not known to the server")
}

func TestOtherRequestsAreRefused(t *testing.T) {
	f := newForge(t, nil)
	for _, test := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/git/shop/web.git/HEAD", 404},
		{"GET", "/git/shop/web.git/config", 404},
		{"GET", "/git/shop/web.git/objects/info/packs", 404},
		{"GET", "/git/shop/web.git/info/refs", 403},
		{"GET", "/git/shop/web.git/info/refs?service=git-upload-archive", 403},
		{"POST", "/git/shop/web.git/info/refs?service=git-upload-pack", 405},
		{"GET", "/git/shop/web.git/git-upload-pack", 405},
		{"POST", "/git/shop/web.git/git-upload-pack", 415},
		{"GET", "/git/../etc.git/info/refs?service=git-upload-pack", 404},
		{"GET", "/git/shop/%2e%2e/web.git/info/refs?service=git-upload-pack", 404},
		{"GET", "/git/shop/web%00.git/info/refs?service=git-upload-pack", 404},
		{"GET", "/git/SHOP/web.git/info/refs?service=git-upload-pack", 404},
		{"GET", "/git/shop/web.git%0a/info/refs?service=git-upload-pack", 404},
	} {
		r, err := http.NewRequestWithContext(t.Context(), test.method, f.http.URL+test.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.SetBasicAuth("any", "ann")
		response, err := f.http.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != test.status {
			t.Errorf("%s %s: status %d, want %d", test.method, test.path, response.StatusCode, test.status)
		}
	}
}

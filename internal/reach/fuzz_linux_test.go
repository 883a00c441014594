package reach

import (
	"bufio"
	"bytes"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func FuzzFrames(f *testing.F) {
	f.Add([]byte{0, 3, 'a', 'b', 'c', 0, 0}, true)
	f.Add([]byte{0xff, 0xff, 2}, true)
	f.Add([]byte{0xff, 0xff, 2}, false)
	f.Fuzz(func(t *testing.T, b []byte, notes bool) {
		in := frames{r: bytes.NewReader(b), notes: notes}
		total := 0
		for {
			msg, note, err := in.next()
			if err != nil {
				break
			}
			if note && len(msg) != 1 {
				t.Fatalf("note of %d bytes", len(msg))
			}
			if total += frameHeader + len(msg); total > len(b) {
				t.Fatalf("%d bytes came out of %d", total, len(b))
			}
		}
	})
}

func FuzzMessage(f *testing.F) {
	f.Add([]byte(query(1, "cart.shop")))
	f.Add([]byte(reply(query(1, "cart.shop"), 3)))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMessage(b)
		if err != nil {
			return
		}
		q, err := m.question()
		_ = m.name()
		a := m.failure(rcodeServer)
		if a.id() != m.id() || !a.response() || a.rcode() != rcodeServer {
			t.Fatalf("failure of %x is %x", b, a)
		}
		if err == nil && !a.answers(q) {
			t.Fatalf("%x does not answer %x", a, b)
		}
		var table asks
		if k, err := table.add(m); err == nil {
			a.setID(k.id)
			table.deliver(m)
			table.deliver(a)
			<-k.answer
		}
	})
}

func FuzzResolvConf(f *testing.F) {
	f.Add("nameserver 1.1.1.1\noptions timeout:3 attempts:2\n")
	f.Fuzz(func(t *testing.T, text string) {
		c := parseResolvConf(text)
		if len(c.servers) > 3 || c.attempts < 1 || c.attempts > 5 || c.timeout <= 0 {
			t.Fatalf("%+v", c)
		}
	})
}

func FuzzStatus(f *testing.F) {
	f.Add([]byte{0})
	f.Add([]byte("\x02connection refused"))
	f.Fuzz(func(t *testing.T, b []byte) {
		err := readStatus(bytes.NewReader(b), "host:80")
		if (err == nil) != (len(b) > 0 && b[0] == 0) {
			t.Fatalf("%x: %v", b, err)
		}
		if err != nil && err.Error() == "" && len(b) > 1 && b[0] != 0 {
			t.Fatalf("%x: no text", b)
		}
	})
}

func FuzzProc(f *testing.F) {
	f.Add(podMountInfo)
	f.Fuzz(func(t *testing.T, text string) {
		if infos, err := parseMountInfo(text); err == nil {
			for _, m := range infos {
				_, _ = m.mount([]string{"/bight/live"}, m.versioned())
			}
		}
		_ = concerns([]byte(text))
	})
}

func FuzzSnapshot(f *testing.F) {
	var b bytes.Buffer
	w := bufio.NewWriter(&b)
	writeSet(w, FileSet{Path: "/x", Entries: []File{{Name: "a", Mode: 0o644, Content: []byte("b")}}, LeftOut: []LeftOut{{"c", "d"}}})
	writeFileFrame(w, fileDone)
	must(f, w.Flush())
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, in []byte) {
		sets, err := readSnapshot(bytes.NewReader(in))
		if err != nil {
			return
		}
		var out bytes.Buffer
		w := bufio.NewWriter(&out)
		for _, s := range sets {
			writeSet(w, s)
		}
		writeFileFrame(w, fileDone)
		must(t, w.Flush())
		again, err := readSnapshot(io.Reader(&out))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(sets, again); diff != "" {
			t.Fatalf("written and read again:\n%s", diff)
		}
	})
}

func FuzzAddresses(f *testing.F) {
	q, _ := questionFor("cart.shop.", typeA)
	a := append(q.failure(0), 0xc0, 12, 0, typeA, 0, classIN, 0, 0, 0, 5, 0, 4, 10, 0, 0, 1)
	a[7] = 1
	f.Add([]byte(a))
	f.Add([]byte(q))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMessage(b)
		if err != nil {
			return
		}
		all, err := m.addresses()
		if len(all) > len(b)/4 {
			t.Fatalf("%d addresses out of %d bytes, %v", len(all), len(b), err)
		}
	})
}

package propagate

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// adding is a reader that adds x-dev: ada to requests without it, and the methods or
// streams that it has seen.
func adding() (r *requests, seen *[]string) {
	seen = &[]string{}
	return &requests{
		seen: func(q request) *field {
			*seen = append(*seen, fmt.Sprint(q.stream, q.method))
			if _, has := q.value("x-dev"); has {
				return nil
			}
			return &field{"x-dev", "ada"}
		},
		given: func(stream uint32) { *seen = append(*seen, fmt.Sprint(stream, " given up")) },
	}, seen
}

// said is what comes out when a text comes in pieces of so many bytes.
func said(r *requests, text string, piece int) string {
	var out strings.Builder
	for len(text) > 0 {
		n := min(piece, len(text))
		out.Write(r.take([]byte(text[:n])))
		text = text[n:]
	}
	out.Write(r.rest())
	return out.String()
}

func TestHTTP1RequestsGetTheHeader(t *testing.T) {
	const added = "x-dev: ada\r\n"
	tests := []struct {
		name, want string // a plus sign is where the header is added
		seen       []string
	}{
		{"One", "GET / HTTP/1.1\r\nHost: a\r\n+\r\n", []string{"1GET"}},
		{"NoHeaderAtAll", "GET / HTTP/1.0\r\n+\r\n", []string{"1GET"}},
		{"Pipelined", "GET / HTTP/1.1\r\nHost: a\r\n+\r\nGET /b HTTP/1.1\r\nHost: a\r\n+\r\n", []string{"1GET", "2GET"}},
		{"Length", "POST / HTTP/1.1\r\nContent-Length: 18\r\n+\r\nGET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n+\r\n", []string{"1POST", "2GET"}},
		{"Chunked", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n+\r\n5;a=b\r\nhello\r\n0\r\nT: x\r\n\r\nPUT / HTTP/1.1\r\n+\r\n", []string{"1POST", "2PUT"}},
		{"Continue", "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n+\r\nhiGET / HTTP/1.1\r\n+\r\n", []string{"1POST", "2GET"}},
		{"HasIt", "GET / HTTP/1.1\r\nX-Dev: bob\r\n\r\nGET / HTTP/1.1\r\n+\r\n", []string{"1GET", "2GET"}},
		{"WebSocket", "GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n+\r\nGET / HTTP/1.1\r\n\r\n", []string{"1GET"}},
		{"DeclinedH2C", "GET / HTTP/1.1\r\nUpgrade: h2c\r\n+\r\nGET / HTTP/1.1\r\n+\r\n", []string{"1GET", "2GET"}},
		{"Tunnel", "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n\r\n", nil},
		{"Proxy", "GET http://example.com/ HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n+\r\n", []string{"1GET", "2GET"}},
		{"TwoLengths", "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nGET / HTTP/1.1\r\n\r\n", nil},
		{"FoldedLine", "GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\nGET / HTTP/1.1\r\n\r\n", nil},
		{"BareLF", "GET / HTTP/1.1\nHost: a\n\nGET / HTTP/1.1\r\n\r\n", nil},
		{"BadChunk", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n+\r\nx\r\nGET / HTTP/1.1\r\n\r\n", []string{"1POST"}},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00GET / HTTP/1.1\r\n\r\n", nil},
		{"Words", "HELO example.com\r\nGET / HTTP/1.1\r\n\r\n", nil},
		{"HTTP2Late", "GET / HTTP/1.1\r\n+\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", []string{"1GET"}},
		{"EndsInAHead", "GET / HTTP/1.1\r\nHost: a\r\n\r", nil},
		{"LongHead", "GET / HTTP/1.1\r\nA: " + strings.Repeat("a", 70<<10) + "\r\n\r\nGET / HTTP/1.1\r\n\r\n", nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			in, want := strings.ReplaceAll(test.want, "+", ""), strings.ReplaceAll(test.want, "+", added)
			for _, piece := range []int{1, 2, 3, 7, 1 << 20} {
				if len(in) > 10<<10 && piece < 7 {
					continue
				}
				r, seen := adding()
				if got := said(r, in, piece); got != want {
					t.Errorf("in pieces of %d: %s", piece, cmp.Diff(want, got))
				}
				if diff := cmp.Diff(test.seen, append([]string(nil), *seen...)); diff != "" {
					t.Errorf("in pieces of %d, seen: %s", piece, diff)
				}
			}
		})
	}
}

// Whoever waits for an answer must not wait for ever because a byte was held back.
func TestNothingIsHeldBackThatAnybodyCouldAnswer(t *testing.T) {
	for _, text := range []string{"H", "HELLO", "PRI", "GET / HTTP/1.1", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: a\r\n", "PING\r", "\r\n\r", "0123"} {
		r, _ := adding()
		if got := string(r.take([]byte(text))); got != text {
			t.Errorf("%q is passed on as %q", text, got)
		}
	}
}

// client writes what an HTTP/2 client says.
type client struct {
	bytes.Buffer
	f     *http2.Framer
	block bytes.Buffer
	hpack *hpack.Encoder
}

func newClient() *client {
	c := &client{}
	c.WriteString(http2.ClientPreface)
	c.f = http2.NewFramer(&c.Buffer, nil)
	c.hpack = hpack.NewEncoder(&c.block)
	_ = c.f.WriteSettings() // to a buffer, as all that follows
	return c
}

// fields compresses fields, given as name and value.
func (c *client) fields(pairs ...string) []byte {
	c.block.Reset()
	for i := 0; i < len(pairs); i += 2 {
		_ = c.hpack.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	return bytes.Clone(c.block.Bytes())
}

// heads reads what a server gets: for each head its stream and fields.
func heads(t *testing.T, text string) (all []string) {
	t.Helper()
	rest, ok := strings.CutPrefix(text, http2.ClientPreface)
	if !ok {
		t.Fatalf("there is no preface in %q", text)
	}
	f := http2.NewFramer(nil, strings.NewReader(rest))
	f.ReadMetaHeaders = hpack.NewDecoder(4<<10, nil)
	for {
		fr, err := f.ReadFrame()
		if err != nil {
			return all
		}
		switch fr := fr.(type) {
		case *http2.MetaHeadersFrame:
			var line strings.Builder
			line.WriteString(fmt.Sprint(fr.StreamID))
			for _, h := range fr.Fields {
				line.WriteString(fmt.Sprintf(" %s=%.10s", h.Name, h.Value))
			}
			all = append(all, line.String())
		case *http2.DataFrame:
			all = append(all, fmt.Sprintf("%d data %s", fr.StreamID, fr.Data()))
		}
	}
}

func TestHTTP2RequestsGetTheHeader(t *testing.T) {
	base := []string{":method", "POST", ":scheme", "http", ":path", "/", ":authority", "cart", "x-long", strings.Repeat("~", 40)}
	long := append(append([]string{}, base...), "x-big", strings.Repeat("~", 16370))
	is := " :method=POST :scheme=http :path=/ :authority=cart x-long=~~~~~~~~~~"
	tests := []struct {
		name string
		say  func(*client)
		want []string
	}{
		{"Plain", func(c *client) {
			_ = c.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.fields(base...), EndHeaders: true})
			_ = c.f.WriteData(1, true, []byte("hi"))
			_ = c.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: c.fields(base...), EndHeaders: true, EndStream: true})
		}, []string{"1" + is + " x-dev=ada", "1 data hi", "3" + is + " x-dev=ada"}},
		{"HasIt", func(c *client) {
			_ = c.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.fields(append(base, "x-dev", "bob")...), EndHeaders: true})
			_ = c.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: c.fields(base...), EndHeaders: true})
		}, []string{"1" + is + " x-dev=bob", "3" + is + " x-dev=ada"}},
		{"Trailers", func(c *client) {
			_ = c.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.fields(base...), EndHeaders: true})
			_ = c.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.fields("sum", "1"), EndHeaders: true, EndStream: true})
		}, []string{"1" + is + " x-dev=ada", "1 sum=1"}},
		{"PaddedWithPriority", func(c *client) {
			_ = c.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.fields(base...), EndHeaders: true, PadLength: 9, Priority: http2.PriorityParam{Weight: 3}})
			_ = c.f.WriteDataPadded(1, true, []byte("hi"), make([]byte, 5))
		}, []string{"1" + is + " x-dev=ada", "1 data hi"}},
		{"Continued", func(c *client) {
			block := c.fields(base...)
			_ = c.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:3]})
			_ = c.f.WriteContinuation(1, false, block[3:8])
			_ = c.f.WriteContinuation(1, true, block[8:])
		}, []string{"1" + is + " x-dev=ada"}},
		{"FullFrame", func(c *client) {
			block := c.fields(long...)
			_ = c.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:16<<10], EndHeaders: len(block) == 16<<10})
			if len(block) > 16<<10 {
				_ = c.f.WriteContinuation(1, true, block[16<<10:])
			}
			_ = c.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: c.fields(base...), EndHeaders: true})
		}, []string{"1" + is + " x-big=~~~~~~~~~~ x-dev=ada", "3" + is + " x-dev=ada"}},
		{"Tunnel", func(c *client) {
			_ = c.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.fields(":method", "CONNECT", ":authority", "a:80"), EndHeaders: true})
		}, []string{"1 :method=CONNECT :authority=a:80"}},
		{"TableResized", func(c *client) {
			c.hpack.SetMaxDynamicTableSize(100)
			_ = c.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.fields(base...), EndHeaders: true})
			_ = c.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: c.fields(base...), EndHeaders: true})
		}, []string{"1" + is + " x-dev=ada", "3" + is + " x-dev=ada"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, piece := range []int{1, 5, 1000, 1 << 20} {
				c := newClient()
				test.say(c)
				r, _ := adding()
				if diff := cmp.Diff(test.want, heads(t, said(r, c.String(), piece))); diff != "" {
					t.Errorf("in pieces of %d: %s", piece, diff)
				}
			}
		})
	}
}

func TestAHeadThatFillsItsFrameGoesOnInAnother(t *testing.T) {
	c := newClient()
	block := c.fields(":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a")
	for n := 16300; len(block) != 16<<10; n++ {
		c = newClient()
		block = c.fields(":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a", "x-big", strings.Repeat("~", n))
		if n > 16<<10 {
			t.Fatal("no value fills a frame")
		}
	}
	_ = c.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndHeaders: true})
	r, _ := adding()
	want := []string{"1 :method=GET :scheme=http :path=/ :authority=a x-big=~~~~~~~~~~ x-dev=ada"}
	if diff := cmp.Diff(want, heads(t, said(r, c.String(), 1<<20))); diff != "" {
		t.Error(diff)
	}
}

func TestBrokenHTTP2PassesAsItIs(t *testing.T) {
	for name, frame := range map[string]string{
		"PaddingTooLong":      "\x00\x00\x01\x01\x0c\x00\x00\x00\x01\xff",
		"NoRoomForPadding":    "\x00\x00\x00\x01\x0c\x00\x00\x00\x01",
		"BadCompression":      "\x00\x00\x01\x01\x04\x00\x00\x00\x01\xff",
		"NoSuchEntry":         "\x00\x00\x02\x01\x04\x00\x00\x00\x01\xfe\x00",
		"LonelyContinuation":  "\x00\x00\x00\x09\x04\x00\x00\x00\x01",
		"HeadInterrupted":     "\x00\x00\x01\x01\x00\x00\x00\x00\x01\x82\x00\x00\x00\x00\x01\x00\x00\x00\x01",
		"HugeHead":            "\x0f\xff\xff\x01\x04\x00\x00\x00\x01\x82",
		"HugeContinuations":   "\x00\x00\x01\x01\x00\x00\x00\x00\x01\x82" + strings.Repeat("\x00\x40\x00\x09\x00\x00\x00\x00\x01"+strings.Repeat("\x84", 16<<10), 16),
		"EndsInTheMiddle":     "\x00\x00\x09\x01\x04\x00\x00\x00\x01\x82",
		"EndsInAFramesHead":   "\x00\x00\x09\x01",
		"OtherStreamContinue": "\x00\x00\x01\x01\x00\x00\x00\x00\x01\x82\x00\x00\x00\x09\x04\x00\x00\x00\x03",
	} {
		t.Run(name, func(t *testing.T) {
			text := http2.ClientPreface + frame + "\x00\x00\x03\x01\x05\x00\x00\x00\x03\x82\x86\x84"
			for _, piece := range []int{1, 1 << 20} {
				if piece == 1 && len(text) > 10<<10 {
					continue
				}
				r, _ := adding()
				if got := said(r, text, piece); got != text {
					t.Errorf("%q is passed on as %q", text, got)
				}
			}
		})
	}
}

func FuzzNothingIsChangedButRequests(f *testing.F) {
	const mark = "x-dev: ada\r\n"
	f.Add([]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi"), 3)
	f.Add([]byte("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n"), 1)
	c := newClient()
	_ = c.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.fields(":method", "GET", ":path", "/", "a", "b"), EndHeaders: true, PadLength: 3})
	_ = c.f.WriteData(1, true, []byte("hi"))
	f.Add(c.Bytes(), 7)
	f.Fuzz(func(t *testing.T, text []byte, piece int) {
		if piece < 1 || bytes.Contains(text, []byte("x-dev")) {
			return
		}
		still := &requests{seen: func(request) *field { return nil }, given: func(uint32) {}}
		if got := said(still, string(text), piece); got != string(text) {
			t.Errorf("with nothing to add %q becomes %q", text, got)
		}
		r, seen := adding()
		got := said(r, string(text), piece)
		if r.last == 0 && got != string(text) {
			t.Errorf("without a request %q becomes %q", text, got)
		}
		if !bytes.HasPrefix(text, []byte(http2.ClientPreface[:24])) && r.frames.hpack == nil {
			if strings.ReplaceAll(got, mark, "") != string(text) || strings.Count(got, mark) > len(*seen) {
				t.Errorf("%q becomes %q", text, got)
			}
		}
		whole, _ := adding()
		if again := said(whole, string(text), len(text)+1); again != got {
			t.Errorf("%q becomes %q as a whole and %q in pieces of %d", text, again, got, piece)
		}
	})
}

func FuzzAnswers(f *testing.F) {
	f.Add([]byte("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"), false)
	f.Add([]byte("\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x02\x00\x01\x00\x00\x00\x01hi"), true)
	f.Fuzz(func(t *testing.T, text []byte, frames bool) {
		ended := 0
		a := &answers{frames: frames, ended: func(uint32) { ended++ }}
		for i := range uint32(3) {
			a.expect(request{stream: i + 1, method: "GET"})
		}
		for _, b := range text {
			a.take([]byte{b})
		}
		if !frames && ended > 3 {
			t.Errorf("%d answers to 3 requests", ended)
		}
	})
}

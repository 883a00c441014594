package bridge

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/bightdev/bight/internal/bridge/jail"
)

// stub answers for one place, and says where a command wanted to.
type stub struct {
	mu  sync.Mutex
	to  []string
	way bool // there was one to the real services
	// What was refused.
	refused []string
}

func (s *stub) Refuse(what, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused = append(s.refused, what+": "+why)
}

func (s *stub) Places() []string { return []string{"stock:7000", "10.43.1.2:80"} }

func (s *stub) Host(name string) string { return strings.TrimSuffix(name, ".shop.svc.cluster.local") }

func (s *stub) Connect(_ context.Context, to string, dial func(context.Context) (net.Conn, error)) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.to, s.way = append(s.to, to), s.way || dial != nil
	ours, theirs := net.Pipe()
	go func() {
		defer ours.Close()
		if _, err := bufio.NewReader(ours).ReadString('\n'); err == nil {
			fmt.Fprintf(ours, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
		}
	}()
	return theirs, nil
}

// question is a DNS message.
func question(t *testing.T, name string, typ dnsmessage.Type) []byte {
	t.Helper()
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: typ, Class: dnsmessage.ClassINET}},
	}
	text, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestNamesLeadToCalls(t *testing.T) {
	const elsewhere = "elsewhere"
	for _, tt := range []struct {
		name  string
		typ   dnsmessage.Type
		alone bool
		want  string // the address, "" for none, or elsewhere
		where string // what its port 80 is
	}{
		{"stock.", dnsmessage.TypeA, false, "198.19.0.1", "stock:80"},
		{"stock.shop.svc.cluster.local.", dnsmessage.TypeA, false, "198.19.0.1", "stock:80"},
		{"stock.", dnsmessage.TypeAAAA, false, "", ""},
		{"other.", dnsmessage.TypeA, false, elsewhere, ""},
		{"other.", dnsmessage.TypeA, true, "198.19.0.2", "other:80"},
		{"7.0.0.127.in-addr.arpa.", dnsmessage.TypePTR, true, "", ""},
	} {
		n := newNames(&stub{})
		if !tt.alone {
			n.next = func(context.Context, []byte) ([]byte, error) { return []byte(elsewhere), nil }
		}
		want := []netip.AddrPort{netip.MustParseAddrPort("198.19.0.1:7000"), netip.MustParseAddrPort("10.43.1.2:80")}
		if diff := cmp.Diff(want, n.ports(), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
			t.Fatalf("ports (-want +got):\n%s", diff)
		}
		text, err := n.resolve(t.Context(), question(t, tt.name, tt.typ))
		if err != nil {
			t.Fatal(err)
		}
		if string(text) == elsewhere {
			if tt.want != elsewhere {
				t.Errorf("%s is asked elsewhere", tt.name)
			}
			continue
		}
		var m dnsmessage.Message
		if err := m.Unpack(text); err != nil || m.ID != 7 || !m.Response || m.RCode != dnsmessage.RCodeSuccess {
			t.Fatalf("%s: %+v, %v", tt.name, m, err)
		}
		got := ""
		for _, a := range m.Answers {
			addr := netip.AddrFrom4(a.Body.(*dnsmessage.AResource).A)
			got = addr.String()
			if at, said := n.where(netip.AddrPortFrom(addr, 80)); at != tt.where || said != at {
				t.Errorf("%s: its port 80 is %s, called %s, want %s", tt.name, at, said, tt.where)
			}
		}
		if got != tt.want {
			t.Errorf("%s %s: got %q, want %q", tt.name, tt.typ, got, tt.want)
		}
	}
}

func TestNamesThatAreNotToBeHadAreRefused(t *testing.T) {
	for _, tt := range []struct {
		name  string
		typ   dnsmessage.Type
		mode  jail.Mode
		want  string // the address, or the code
		about string // what is said, "" for nothing
	}{
		{"stock.", dnsmessage.TypeA, jail.ModeListeners, "198.19.0.1", ""},
		{"other.", dnsmessage.TypeA, jail.ModeListeners, "RCodeNameError", "the name other: it knows nobody there"},
		{"other.", dnsmessage.TypeAAAA, jail.ModeListeners, "RCodeNameError", ""},
		{"other.", dnsmessage.TypeA, jail.ModeTransparent, "198.19.0.1", ""},
		{"other.", dnsmessage.TypeAAAA, jail.ModeTransparent, "RCodeSuccess", ""},
		{"_http._tcp.stock.", dnsmessage.TypeSRV, jail.ModeTransparent, "RCodeSuccess", "the name _http._tcp.stock (SRV): a recording has no such names"},
		{"stock.", dnsmessage.TypeTXT, jail.ModeListeners, "RCodeSuccess", "the name stock (TXT): a recording has no such names"},
		{"7.0.0.127.in-addr.arpa.", dnsmessage.TypePTR, jail.ModeListeners, "RCodeSuccess", ""},
		{"full.", dnsmessage.TypeA, jail.ModeTransparent, "RCodeSuccess", "the name full: there are too many names"},
	} {
		s := &stub{}
		n := newNames(s)
		n.mode = func(context.Context) (jail.Mode, error) { return tt.mode, nil }
		if tt.name == "full." {
			for i := range 1 << 16 {
				n.address(fmt.Sprint(i))
			}
		}
		text, err := n.resolve(t.Context(), question(t, tt.name, tt.typ))
		if err != nil {
			t.Fatal(err)
		}
		var m dnsmessage.Message
		if err := m.Unpack(text); err != nil {
			t.Fatal(err)
		}
		got := m.RCode.String()
		if len(m.Answers) > 0 {
			got = netip.AddrFrom4(m.Answers[0].Body.(*dnsmessage.AResource).A).String()
		}
		if about := strings.Join(s.refused, "; "); got != tt.want || about != tt.about {
			t.Errorf("%s %s in %s: %s, said is %q, want %s and %q", tt.name, tt.typ, tt.mode, got, about, tt.want, tt.about)
		}
	}
}

func TestAddressesOfOthersAreCalledByTheirNames(t *testing.T) {
	n := newNames(&stub{})
	n.next = func(_ context.Context, query []byte) ([]byte, error) {
		var m dnsmessage.Message
		if err := m.Unpack(query); err != nil {
			return nil, err
		}
		head := dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET}
		m.Answers = []dnsmessage.Resource{
			{Header: head, Body: &dnsmessage.AResource{A: [4]byte{10, 96, 0, 7}}},
			{Header: head, Body: &dnsmessage.AAAAResource{AAAA: netip.MustParseAddr("fd00::7").As16()}},
		}
		return m.Pack()
	}
	if _, err := n.resolve(t.Context(), question(t, "db.shop.svc.cluster.local.", dnsmessage.TypeA)); err != nil {
		t.Fatal(err)
	}
	for to, want := range map[string]string{"10.96.0.7:80": "db:80", "[fd00::7]:80": "db:80", "10.96.0.8:80": "10.96.0.8:80"} {
		if at, said := n.where(netip.MustParseAddrPort(to)); at != to || said != want {
			t.Errorf("%s is %s, called %s, want it called %s", to, at, said, want)
		}
	}
}

// beAnAsker is the command of the test below: it asks by way of HTTP_PROXY.
func beAnAsker() error {
	conn, err := net.Dial("tcp", strings.TrimPrefix(os.Getenv("HTTP_PROXY"), "http://"))
	if err != nil {
		return err
	}
	fmt.Fprint(conn, "GET http://stock:7000/x HTTP/1.1\r\nHost: stock:7000\r\nConnection: close\r\n\r\n")
	if all, err := io.ReadAll(conn); !strings.HasSuffix(string(all), "hello") {
		return fmt.Errorf("%s, %v", all, err)
	}
	return nil
}

func TestAloneWithoutANetworkOfItsOwnACommandHasAProxy(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	s := &stub{}
	code, err := Alone(t.Context(), Order{
		Command: []string{program}, Env: []string{"BE=asker"}, Plain: true, Calls: s, Stdout: os.Stdout,
	}, func(text string) { said = append(said, text) }, slog.New(slog.DiscardHandler))
	if code != 0 || err != nil {
		t.Fatalf("the command ends with %d, %v", code, err)
	}
	if diff := cmp.Diff([]string{"stock:7000"}, s.to); diff != "" || s.way {
		t.Errorf("%s, a way to the real services: %v", diff, s.way)
	}
	if len(said) != 1 || !strings.Contains(said[0], "HTTP_PROXY") {
		t.Errorf("said is %q", said)
	}
}

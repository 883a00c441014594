package jail

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// dnsQuery makes a question.
func dnsQuery(id uint16, name string) []byte {
	q := binary.BigEndian.AppendUint16(nil, id)
	q = append(q, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0)
	for label := range strings.SplitSeq(name, ".") {
		q = append(append(q, byte(len(label))), label...)
	}
	return append(q, 0, 0, 1, 0, 1)
}

// dnsAnswer answers with an address for ttl seconds, or with a code and an SOA.
func dnsAnswer(query []byte, ttl uint32, rcode byte) []byte {
	m := append([]byte{}, query...)
	m[2], m[3] = 0x85, 0x80|rcode
	m = append(m, 0xc0, 12, 0)
	if rcode == 0 {
		m[7] = 1
		m = binary.BigEndian.AppendUint32(append(m, 1, 0, 1), ttl)
		return append(m, 0, 4, 10, 0, 0, 1)
	}
	m[9] = 1
	m = binary.BigEndian.AppendUint32(append(m, typeSOA, 0, 1), 3600)
	m = append(append(m, 0, 22, 0, 0), make([]byte, 16)...)
	return binary.BigEndian.AppendUint32(m, ttl)
}

func TestAnswersAreKeptAsLongAsTheySay(t *testing.T) {
	for _, tc := range []struct {
		name  string
		rcode byte
		ttl   uint32
		wait  time.Duration
		asked int
	}{
		{"again at once", 0, 5, 0, 1},
		{"while valid", 0, 5, 4 * time.Second, 1},
		{"later", 0, 5, 6 * time.Second, 2},
		{"much later than one would trust", 0, 3600, 31 * time.Second, 2},
		{"no such name", rcodeNoName, 5, 4 * time.Second, 1},
		{"no such name, later", rcodeNoName, 5, 6 * time.Second, 2},
		{"not to be kept", 0, 0, 0, 2},
		{"a failure", rcodeFailed, 5, 0, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked := 0
				n := newNames(func(_ context.Context, q []byte) ([]byte, error) {
					asked++
					return dnsAnswer(q, tc.ttl, tc.rcode), nil
				}, slog.New(slog.DiscardHandler))
				n.reply(t.Context(), dnsQuery(1, "cart.shop"))
				time.Sleep(tc.wait) // of the test's own clock
				got := n.reply(t.Context(), dnsQuery(2, "cart.shop"))
				if asked != tc.asked {
					t.Errorf("asked %d times, want %d", asked, tc.asked)
				}
				if binary.BigEndian.Uint16(got) != 2 || got[3]&0xf != tc.rcode {
					t.Errorf("answer % x", got)
				}
				if age := uint32(tc.wait / time.Second); asked == 1 && tc.rcode == 0 {
					if left := binary.BigEndian.Uint32(got[len(got)-10:]); left != tc.ttl-age {
						t.Errorf("valid for %d s, want %d", left, tc.ttl-age)
					}
				}
			})
		})
	}
}

func TestTooManyQuestionsAreAnsweredWithAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var mu sync.Mutex
		asked := 0
		n := newNames(func(_ context.Context, q []byte) ([]byte, error) {
			mu.Lock()
			asked++
			mu.Unlock()
			<-release
			return dnsAnswer(q, 5, 0), nil
		}, slog.New(slog.DiscardHandler))
		var group sync.WaitGroup
		ask := func(name string, want byte) {
			group.Go(func() {
				if got := n.reply(t.Context(), dnsQuery(7, name)); got[3]&0xf != want || got[1] != 7 {
					t.Errorf("%s: % x, want code %d", name, got, want)
				}
			})
		}
		for i := range maxQuestions {
			ask("n"+string(rune('a'+i%26))+strings.Repeat("x", i/26), 0)
		}
		synctest.Wait()
		ask("na", 0) // the same as one that is under way
		ask("one-too-many", rcodeFailed)
		synctest.Wait()
		close(release)
		group.Wait()
		if asked != maxQuestions {
			t.Errorf("asked %d, want %d", asked, maxQuestions)
		}
	})
}

func TestAnErrorIsAnsweredWithAFailure(t *testing.T) {
	n := newNames(func(context.Context, []byte) ([]byte, error) { return nil, errors.New("cut") }, slog.New(slog.DiscardHandler))
	q := dnsQuery(9, "cart")
	got := n.reply(t.Context(), q)
	if len(got) != len(q) || got[1] != 9 || got[2] != 0x81 || got[3] != 0x80|rcodeFailed {
		t.Errorf("% x", got)
	}
	if got := n.reply(t.Context(), []byte("short")); got != nil {
		t.Errorf("% x for what is no message", got)
	}
}

func TestLongAnswersAreTruncatedOverUDP(t *testing.T) {
	q := dnsQuery(1, "cart")
	long := append(dnsAnswer(q, 5, 0), make([]byte, 600)...)
	if got := fit(long, udpSize(q)); len(got) != len(q) || got[2]&2 == 0 || got[7] != 0 {
		t.Errorf("%d bytes, % x", len(got), got)
	}
	edns := append(append([]byte{}, q...), 0, 0, typeOPT, 0x04, 0xd0, 0, 0, 0, 0, 0, 0)
	edns[11] = 1
	if got := udpSize(edns); got != 1232 {
		t.Errorf("size %d, want 1232", got)
	}
	if got := fit(long, udpSize(edns)); len(got) != len(long) {
		t.Errorf("%d bytes of %d", len(got), len(long))
	}
}

func FuzzMessage(f *testing.F) {
	q := dnsQuery(1, "cart.shop")
	f.Add(q)
	f.Add(dnsAnswer(q, 5, 0))
	f.Add(dnsAnswer(q, 5, rcodeNoName))
	f.Fuzz(func(t *testing.T, m []byte) {
		udpSize(m)
		if len(m) < dnsHeader {
			return
		}
		if got := failure(m); got[3]&0xf != rcodeFailed || len(got) > len(m) {
			t.Errorf("failure of % x is % x", m, got)
		}
		if got := fit(m, 512); len(got) > 512 {
			t.Errorf("%d bytes", len(got))
		}
		if _, ttls, ok := lifetime(m); ok {
			aged(answer{message: m, ttls: ttls}, time.Now())
		}
	})
}

func TestRoutes(t *testing.T) {
	cluster := []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("fd00::/16")}
	own := []netip.Addr{defaultOwn4, defaultOwn6}
	odd := func(ap netip.AddrPort) bool { return ap.Port()%2 == 1 }
	for _, tc := range []struct {
		name string
		r    routes
		dst  string
		want side
		to   string
	}{
		{"in a range", routes{ranges: cluster}, "10.96.0.1:443", toCluster, ""},
		{"mapped", routes{ranges: cluster}, "[::ffff:10.96.0.1]:443", toCluster, "10.96.0.1:443"},
		{"IPv6", routes{ranges: cluster}, "[fd00::1]:443", toCluster, ""},
		{"elsewhere", routes{ranges: cluster}, "1.1.1.1:443", toMachine, ""},
		{"everything", routes{}, "1.1.1.1:443", toCluster, ""},
		{"a rule that says so", routes{ranges: cluster, local: odd}, "10.96.0.1:443", toMachine, ""},
		{"a rule that does not", routes{local: odd}, "1.1.1.1:80", toCluster, ""},
		{"the machine", routes{}, "198.18.0.1:5432", toMachine, "127.0.0.1:5432"},
		{"itself", routes{own: own}, "198.18.0.2:80", toNobody, ""},
		{"itself by IPv6", routes{own: own}, "[fd62:6967:6874::2]:80", toNobody, ""},
		{"loopback", routes{}, "127.0.0.1:1", toNobody, ""},
		{"loopback by IPv6", routes{local: odd}, "[::1]:1", toNobody, ""},
		{"the name server's other ports", routes{}, "198.18.0.53:80", toNobody, ""},
		{"multicast", routes{}, "224.0.0.251:5353", toNobody, ""},
		{"link-local metadata", routes{}, "169.254.169.254:80", toCluster, ""},
	} {
		if tc.to == "" {
			tc.to = tc.dst
		}
		where, to := tc.r.decide(netip.MustParseAddrPort(tc.dst))
		if where != tc.want || to.String() != tc.to {
			t.Errorf("%s: %s %s, want %s %s", tc.name, where, to, tc.want, tc.to)
		}
	}
}

func TestConfigurationFiles(t *testing.T) {
	if got, want := resolvConf("# made by kubelet\nnameserver 10.96.0.10\nsearch a.svc  svc\n\noptions ndots:5", nameserver), "nameserver 198.18.0.53\nsearch a.svc svc\noptions ndots:5\n"; got != want {
		t.Errorf("resolv.conf: %q, want %q", got, want)
	}
	if got, want := nsswitchConf("passwd: files sss\nhosts: files mymachines resolve [!UNAVAIL=return] dns\nnetworks: files"), "passwd: files sss\nnetworks: files\nhosts: files dns\n"; got != want {
		t.Errorf("nsswitch.conf: %q, want %q", got, want)
	}
	if got, want := hostsFile("127.0.0.1 localhost\n10.1.2.3 cart-1", "", defaultOwn4), "127.0.0.1 localhost\n10.1.2.3 cart-1\n198.18.0.1 host.bight.internal\n"; got != want {
		t.Errorf("hosts: %q, want %q", got, want)
	}
}

func TestMountsAreChecked(t *testing.T) {
	for _, tc := range []struct {
		m  Mount
		ok bool
	}{
		{Mount{Path: "/etc/x", Files: []File{{Name: "a/b"}}}, true},
		{Mount{Path: "/etc/x", Files: []File{{}}}, true},
		{Mount{Path: "/etc/x", Files: []File{{Name: "..data", Link: "..1"}}}, true},
		{Mount{Path: "/etc/x", Projected: true, Files: []File{{Name: "..data", Link: "..1"}}}, false},
		{Mount{Path: "etc/x"}, false},
		{Mount{Path: "/"}, false},
		{Mount{Path: "/etc/x", Files: []File{{Name: "../y"}}}, false},
		{Mount{Path: "/etc/x", Files: []File{{Name: "/y"}}}, false},
		{Mount{Path: "/etc/x", Files: []File{{Name: "a/../../y"}}}, false},
		{Mount{Path: "/etc/x", Files: []File{{Name: "a"}, {}}}, false},
	} {
		if err := tc.m.check(); (err == nil) != tc.ok {
			t.Errorf("%+v: %v", tc.m, err)
		}
	}
}

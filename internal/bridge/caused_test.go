package bridge

import (
	"net/netip"
	"testing"

	"github.com/bightdev/bight/internal/steer"
)

func TestWhatIsMarkedStaysInTheCluster(t *testing.T) {
	var c caused
	for _, test := range []struct {
		to   string
		want bool
	}{
		{"10.96.0.10:80", true},
		{"192.168.1.1:80", true},
		{"100.64.3.4:80", true},
		{"[fd00::1]:80", true},
		{"[::ffff:10.0.0.1]:80", true},
		{"93.184.215.14:80", false},
		{"[2001:db8::1]:80", false},
		{"34.118.224.9:80", false},
	} {
		if got := c.inside(netip.MustParseAddrPort(test.to)); got != test.want {
			t.Errorf("%s: %v, want %v", test.to, got, test.want)
		}
	}
	c.learn([]netip.Prefix{netip.MustParsePrefix("34.118.224.0/20")})
	if !c.inside(netip.MustParseAddrPort("34.118.224.9:80")) {
		t.Error("a Service's address is not inside")
	}
}

func TestWhetherCallsAreMarked(t *testing.T) {
	header := &steer.Rule{Match: steer.Match{Headers: []steer.HeaderMatch{{Name: "x-dev", Value: "ada"}}}}
	host := &steer.Rule{Match: steer.Match{Headers: []steer.HeaderMatch{{Name: "host", Value: "ada.example"}}}}
	for _, test := range []struct {
		name       string
		order      Order
		want, says bool
	}{
		{"WithoutARule", Order{}, false, false},
		{"EveryRequest", Order{Rule: &steer.Rule{}}, false, false},
		{"Header", Order{Rule: header}, true, true},
		{"NotWanted", Order{Rule: header, Unmarked: true}, false, false},
		{"Host", Order{Rule: host}, false, true},
	} {
		var c caused
		said := false
		c.mark(test.order, func(string) { said = true })
		if got := c.by != nil; got != test.want || said != test.says {
			t.Errorf("%s: marked %v, said %v; want %v, %v", test.name, got, said, test.want, test.says)
		}
	}
}

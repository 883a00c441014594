package controller

import "testing"

func TestAPreviewSaysHowManyAnswer(t *testing.T) {
	for _, tt := range []struct {
		services, links int
		want            string
	}{
		{2, 1, "2 services and 1 link answer in ns"},
		{1, 0, "1 service and 0 links answer in ns"},
		{7, 10, "7 services and 10 links answer in ns"},
	} {
		if got := answering(tt.services, tt.links, "ns"); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}
